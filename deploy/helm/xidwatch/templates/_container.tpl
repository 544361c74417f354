{{- /*
Whether the event loop turns: /healthz, which is open to everybody, or an answer on the unix socket where kubelet cannot
come in.
*/ -}}
{{- define "xidwatch.aliveProbe" -}}
{{- if include "xidwatch.kubeletGetsIn" . -}}
httpGet:
  path: /healthz
  port: http
  {{- if .Values.tls.existingSecret }}
  scheme: HTTPS
  {{- end }}
{{- else -}}
exec:
  command: [python3, -c, "from xidwatch import socket_client; socket_client.status(None)"]
{{- end -}}
{{- end -}}

{{- /* `resources`, and what GPU access adds to them. */ -}}
{{- define "xidwatch.resources" -}}
{{- $all := deepCopy .Values.resources -}}
{{- if eq .Values.gpu.access "resource" -}}
{{- $count := dict .Values.gpu.resource.name (int .Values.gpu.resource.count) -}}
{{- $_ := set $all "limits" (merge $count ($all.limits | default dict)) -}}
{{- end -}}
{{- if eq .Values.gpu.access "dra" }}{{ $_ := set $all "claims" (list (dict "name" "gpus")) }}{{ end -}}
{{- toYaml $all -}}
{{- end -}}
