{{- /*
What contradicts itself is refused here, with the reason, before anything reaches the cluster. Single values are
checked by values.schema.json.
*/ -}}
{{- define "xidwatch.checks" -}}
{{- include "xidwatch.checkImage" . -}}
{{- include "xidwatch.checkLabels" . -}}
{{- include "xidwatch.checkRights" . -}}
{{- include "xidwatch.checkDoor" . -}}
{{- include "xidwatch.checkScraping" . -}}
{{- include "xidwatch.checkGpu" . -}}
{{- end -}}

{{- define "xidwatch.checkImage" -}}
{{- if not .Values.image.repository -}}
{{- fail "image.repository is empty: name the image in a registry that your nodes pull from (--set image.repository=registry.example.com/xidwatch)" -}}
{{- end -}}
{{- end -}}

{{- define "xidwatch.checkLabels" -}}
{{- $own := include "xidwatch.daemonLabels" . | fromYaml -}}
{{- range $key, $value := .Values.podLabels -}}
{{- if hasKey $own $key -}}
{{- fail (printf "podLabels sets %s, by which the DaemonSet finds its pods: take another label" $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "xidwatch.checkRights" -}}
{{- $why := list -}}
{{- if eq .Values.logAccess "privileged" -}}
{{- $why = append $why "logAccess=privileged makes the container privileged" -}}
{{- else -}}
{{- $why = append $why "the container adds the capabilities SYSLOG, BPF and PERFMON" -}}
{{- end -}}
{{- if or (eq .Values.state.type "hostPath") .Values.socket.hostPath }}{{ $why = append $why "it mounts a hostPath" }}{{ end -}}
{{- if .Values.hostPID }}{{ $why = append $why "it sees the host's processes" }}{{ end -}}
{{- if ne .Values.namespace.podSecurity "privileged" -}}
{{- fail (printf "namespace.podSecurity=%s would refuse the pods: %s; set it to privileged" .Values.namespace.podSecurity (join ", " $why)) -}}
{{- end -}}
{{- $probes := index .Values.config "probes" | default "" | toString -}}
{{- if and (ne .Values.logAccess "privileged") (has "kmsg" (splitList "," (nospace $probes))) -}}
{{- fail "config.probes names kmsg, but Kubernetes opens /dev/kmsg to privileged containers only: set logAccess=privileged, or leave kmsg out" -}}
{{- end -}}
{{- if eq (index .Values.config "mode" | default "") "operator" -}}
{{- if not (and .Values.hostPID (eq .Values.logAccess "privileged")) -}}
{{- fail "config.mode=operator acts on processes and GPUs of the node: it needs hostPID=true and logAccess=privileged" -}}
{{- end -}}
{{- if .Values.auth.allowAnonymous -}}
{{- fail "config.mode=operator with auth.allowAnonymous would let anybody who reaches a pod kill processes of the node: give out tokens" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "xidwatch.checkDoor" -}}
{{- if and .Values.auth.existingSecret .Values.auth.tokens -}}
{{- fail "auth.existingSecret and auth.tokens are both set: the token file comes from one of them" -}}
{{- end -}}
{{- if and .Values.auth.allowAnonymous (include "xidwatch.isLocked" .) -}}
{{- fail "auth.allowAnonymous is set beside tokens or config.oauth-issuer: the door is either open or locked" -}}
{{- end -}}
{{- if and (index .Values.config "oauth-issuer") (not (index .Values.config "oauth-audience")) -}}
{{- fail "config.oauth-issuer is set without config.oauth-audience: tokens for any other service would be accepted" -}}
{{- end -}}
{{- if and .Values.tls.clientCA.existingSecret (not .Values.tls.existingSecret) -}}
{{- fail "tls.clientCA is set without tls.existingSecret: asking clients for a certificate takes one of our own" -}}
{{- end -}}
{{- if and .Values.tls.existingSecret (not (include "xidwatch.isReachable" .)) -}}
{{- fail "tls.existingSecret is set, but nobody can come in: the daemon listens on 127.0.0.1 until there are tokens (auth.existingSecret, auth.tokens), config.oauth-issuer, or auth.allowAnonymous" -}}
{{- end -}}
{{- if and .Values.test.tokenSecret.name (not (include "xidwatch.hasTokens" .)) -}}
{{- fail "test.tokenSecret is set, but the daemon has no token file: set auth.existingSecret or auth.tokens" -}}
{{- end -}}
{{- if and .Values.otlp.headersSecret.name (not (index .Values.config "otlp-endpoint")) -}}
{{- fail "otlp.headersSecret is set without config.otlp-endpoint: the headers are for nobody" -}}
{{- end -}}
{{- if and .Values.onEvent.existingSecret .Values.onEvent.sinks -}}
{{- fail "onEvent.existingSecret and onEvent.sinks are both set: the file comes from one of them" -}}
{{- end -}}
{{- end -}}

{{- define "xidwatch.checkScraping" -}}
{{- $monitor := .Values.podMonitor -}}
{{- if $monitor.enabled -}}
{{- if not (include "xidwatch.isReachable" .) -}}
{{- fail "podMonitor.enabled is set, but Prometheus cannot come in: the daemon listens on 127.0.0.1 until there are tokens (auth.existingSecret, auth.tokens), config.oauth-issuer, or auth.allowAnonymous" -}}
{{- end -}}
{{- if and (include "xidwatch.isLocked" .) (not $monitor.tokenSecret.name) -}}
{{- fail "podMonitor.enabled is set without podMonitor.tokenSecret.name: /metrics asks for a token" -}}
{{- end -}}
{{- if and .Values.tls.existingSecret (not $monitor.tls.caSecret) -}}
{{- fail "podMonitor.enabled is set with TLS, but without podMonitor.tls.caSecret: Prometheus cannot tell the daemon from somebody else" -}}
{{- end -}}
{{- if and .Values.tls.clientCA.existingSecret (not $monitor.tls.clientSecret) -}}
{{- fail "podMonitor.enabled is set with tls.clientCA, but without podMonitor.tls.clientSecret: Prometheus needs a certificate to come in" -}}
{{- end -}}
{{- end -}}
{{- if and (not .Values.tls.existingSecret) (or $monitor.tls.caSecret $monitor.tls.clientSecret) -}}
{{- fail "podMonitor.tls is set, but the daemon speaks no TLS: set tls.existingSecret" -}}
{{- end -}}
{{- end -}}

{{- define "xidwatch.checkGpu" -}}
{{- $gpu := .Values.gpu -}}
{{- $backend := index .Values.config "gpu" | default "auto" -}}
{{- if and (eq $gpu.access "none") (eq $backend "nvml") -}}
{{- fail "config.gpu=nvml reads GPUs that gpu.access=none does not show to the pod" -}}
{{- end -}}
{{- if and (ne $gpu.access "none") (has $backend (list "off" "mock")) -}}
{{- fail (printf "config.gpu=%s does not read the GPUs that gpu.access=%s asks for: set gpu.access=none" $backend $gpu.access) -}}
{{- end -}}
{{- if and (eq $gpu.access "runtimeClass") (not $gpu.runtimeClass.name) -}}
{{- fail "gpu.access=runtimeClass needs gpu.runtimeClass.name" -}}
{{- end -}}
{{- if eq $gpu.access "dra" -}}
{{- if not $gpu.dra.deviceClassName -}}
{{- fail "gpu.access=dra needs gpu.dra.deviceClassName: the DeviceClass of the GPUs" -}}
{{- end -}}
{{- if semverCompare "<1.34.0-0" .Capabilities.KubeVersion.Version -}}
{{- fail (printf "gpu.access=dra needs resource.k8s.io/v1, which Kubernetes has from 1.34 on; this is %s" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- if and (not $gpu.dra.adminAccess) (eq $gpu.dra.allocationMode "All") -}}
{{- fail "gpu.dra.allocationMode=All without adminAccess would take every GPU of the node from workloads: set adminAccess=true, or ExactCount" -}}
{{- end -}}
{{- end -}}
{{- end -}}
