{{- /*
What follows from `auth` and `tls`. Each answers "yes" or nothing.
*/ -}}

{{- define "xidwatch.hasTokens" -}}
{{- if or .Values.auth.existingSecret .Values.auth.tokens }}yes{{ end -}}
{{- end -}}

{{- /* Something at the door asks who comes. */ -}}
{{- define "xidwatch.isLocked" -}}
{{- if or (include "xidwatch.hasTokens" .) (index .Values.config "oauth-issuer") }}yes{{ end -}}
{{- end -}}

{{- /* Others than this pod can come to the port. Else the daemon listens on 127.0.0.1. */ -}}
{{- define "xidwatch.isReachable" -}}
{{- if or (include "xidwatch.isLocked" .) .Values.auth.allowAnonymous }}yes{{ end -}}
{{- end -}}

{{- /* Kubelet's own requests get through: it comes from outside the pod, and has no certificate. */ -}}
{{- define "xidwatch.kubeletGetsIn" -}}
{{- if and (include "xidwatch.isReachable" .) (not .Values.tls.clientCA.existingSecret) }}yes{{ end -}}
{{- end -}}

{{- define "xidwatch.tokenSecretName" -}}
{{- .Values.auth.existingSecret | default (printf "%s-tokens" (include "xidwatch.fullname" .)) -}}
{{- end -}}

{{- define "xidwatch.onEventSecretName" -}}
{{- .Values.onEvent.existingSecret | default (printf "%s-on-event" (include "xidwatch.fullname" .)) -}}
{{- end -}}

{{- define "xidwatch.sendsEvents" -}}
{{- if or .Values.onEvent.existingSecret .Values.onEvent.sinks }}yes{{ end -}}
{{- end -}}

{{- /* The daemon opens connections of its own. */ -}}
{{- define "xidwatch.callsOut" -}}
{{- $config := .Values.config -}}
{{- if or (include "xidwatch.sendsEvents" .) .Values.nodeReports (index $config "otlp-endpoint") (index $config "oauth-issuer") }}yes{{ end -}}
{{- end -}}
