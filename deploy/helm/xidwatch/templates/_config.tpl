{{- /*
The daemon's TOML file: what the chart decides, and `config`. A string in JSON is one in TOML as well.
*/ -}}
{{- define "xidwatch.config" -}}
{{- $reachable := include "xidwatch.isReachable" . -}}
{{- $name := include "xidwatch.fullname" . -}}
{{- $host := ternary .Values.listen.host "127.0.0.1" (not (empty $reachable)) -}}
{{- $all := dict "listen" (printf "%s:%d" $host (int .Values.listen.port)) "socket" "/run/xidwatch/mcp.sock" "state-dir" "/var/lib/xidwatch" -}}
{{- if eq .Values.gpu.access "none" }}{{ $_ := set $all "gpu" "off" }}{{ end -}}
{{- range $key, $value := .Values.config }}{{ $_ := set $all $key $value }}{{ end -}}
{{- if $reachable -}}
{{- $names := list $name (printf "%s.%s" $name .Release.Namespace) (printf "%s.%s.svc" $name .Release.Namespace) (printf "%s.%s.svc.cluster.local" $name .Release.Namespace) -}}
{{- $_ := set $all "allowed-hosts" (concat $names (index .Values.config "allowed-hosts" | default list) | uniq) -}}
{{- end -}}
{{- if .Values.auth.allowAnonymous }}{{ $_ := set $all "allow-anonymous" true }}{{ end -}}
{{- if include "xidwatch.hasTokens" . }}{{ $_ := set $all "token-file" "/etc/xidwatch/auth/tokens" }}{{ end -}}
{{- if .Values.tls.existingSecret -}}
{{- $_ := set $all "tls-cert" "/etc/xidwatch/tls/tls.crt" -}}
{{- $_ := set $all "tls-key" "/etc/xidwatch/tls/tls.key" -}}
{{- end -}}
{{- if .Values.tls.clientCA.existingSecret }}{{ $_ := set $all "tls-client-ca" "/etc/xidwatch/client-ca/ca.crt" }}{{ end -}}
{{- if include "xidwatch.sendsEvents" . }}{{ $_ := set $all "on-event" "/etc/xidwatch/on-event/on-event.toml" }}{{ end -}}
{{- if .Values.nodeReports }}{{ $_ := set $all "node-reports" .Values.nodeReports }}{{ end -}}
{{- range $key := keys $all | sortAlpha }}
{{- $value := get $all $key }}
{{- if kindIs "float64" $value }}{{ $value = int64 $value }}{{ end }}
{{ $key }} = {{ $value | toJson }}
{{- end }}
{{- end -}}
