{{- /* What the pod asks DRA for. */ -}}
{{- define "xidwatch.claim" -}}
{{- $dra := .Values.gpu.dra -}}
spec:
  devices:
    requests:
      - name: gpus
        exactly:
          deviceClassName: {{ $dra.deviceClassName }}
          allocationMode: {{ $dra.allocationMode }}
          {{- if eq $dra.allocationMode "ExactCount" }}
          count: {{ $dra.count }}
          {{- end }}
          {{- if $dra.adminAccess }}
          adminAccess: true
          {{- end }}
          # A driver that taints a sick GPU would otherwise have the pod evicted that watches it.
          tolerations:
            - operator: Exists
{{- end -}}

{{- /* Kubernetes lets nobody change a ResourceClaimTemplate: another claim is another object. */ -}}
{{- define "xidwatch.claimName" -}}
{{- printf "%s-gpus-%s" (include "xidwatch.fullname" .) (include "xidwatch.claim" . | sha256sum | trunc 8) -}}
{{- end -}}

{{- /* On which nodes. */ -}}
{{- define "xidwatch.placement" -}}
{{- $placed := dict -}}
{{- range $key := list "nodeSelector" "affinity" "tolerations" -}}
{{- with index $.Values $key }}{{ $_ := set $placed $key . }}{{ end -}}
{{- end -}}
{{- with $placed }}{{ toYaml . }}{{ end -}}
{{- end -}}
