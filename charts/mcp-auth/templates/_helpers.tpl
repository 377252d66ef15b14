{{- define "mcp-auth.fullname" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}{{ end }}
{{- end }}
{{- end }}

{{- define "mcp-auth.operator" -}}{{ include "mcp-auth.fullname" . }}-operator{{- end }}

{{- define "mcp-auth.serviceAccount" -}}
{{- default (include "mcp-auth.operator" .) .Values.serviceAccount.name }}
{{- end }}

{{/* What the operator's certificate is for. */}}
{{- define "mcp-auth.servingNames" -}}
- {{ include "mcp-auth.operator" . }}.{{ .Release.Namespace }}.svc
- {{ include "mcp-auth.operator" . }}.{{ .Release.Namespace }}.svc.cluster.local
{{- end }}

{{/* The key of the certificate that cert-manager issues, as its `privateKey`. What is not set is the chart's own default, the size
by the algorithm. */}}
{{- define "mcp-auth.privateKey" -}}
{{- $key := merge (dict "encoding" "PKCS8") (default (dict) .Values.certificates.certManager.privateKey) (dict "algorithm" "ECDSA" "rotationPolicy" "Always") }}
{{- $sizes := dict "ECDSA" 256 "RSA" 2048 }}
{{- if and (not (hasKey $key "size")) (hasKey $sizes $key.algorithm) }}{{ $key = set $key "size" (get $sizes $key.algorithm) }}{{ end }}
{{- toYaml $key }}
{{- end }}

{{/* The Secret with the operator's certificate. Not the same with cert-manager, which would otherwise be given one that holds the
key of the operator's own authority. */}}
{{- define "mcp-auth.certificateSecret" -}}
{{ include "mcp-auth.operator" . }}-{{ ternary "serving" "tls" .Values.certificates.certManager.enabled }}
{{- end }}

{{/* The Secret with the keys that the operator makes for clients. */}}
{{- define "mcp-auth.keysSecret" -}}{{ include "mcp-auth.operator" . }}-keys{{- end }}

{{- /* The fields of an object that are not null: where a platform chooses one, values set it to null. */}}
{{- define "mcp-auth.stated" -}}
{{- $stated := dict }}
{{- range $name, $value := . }}
{{- if not (kindIs "invalid" $value) }}{{ $_ := set $stated $name $value }}{{ end }}
{{- end }}
{{- toYaml $stated }}
{{- end }}

{{- define "mcp-auth.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | quote }}
app.kubernetes.io/instance: {{ .Release.Name | trunc 63 | quote }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "mcp-auth.labels" -}}
{{ include "mcp-auth.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Of what `helm test` makes: never those that the operator's Service and NetworkPolicy select by. */}}
{{- define "mcp-auth.testLabels" -}}
{{- merge (dict "app.kubernetes.io/component" "test") (include "mcp-auth.labels" . | fromYaml) | toYaml }}
{{- end }}

{{/* Annotations of what `helm test` makes for itself and removes when it ends, if nobody interrupts it. */}}
{{- define "mcp-auth.testHook" -}}
helm.sh/hook: test
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
{{- end }}

{{/* Namespaces that the running operator's arguments name. Nothing where no cluster is asked, where it serves all, or where there is
none. Whoever upgrades may get the Deployment. */}}
{{- define "mcp-auth.namespacesServed" -}}
{{- $served := list }}
{{- range dig "spec" "template" "spec" "containers" (list) . }}
{{- range .args }}
{{- if hasPrefix "--watch-namespace=" . }}{{ $served = append $served (trimPrefix "--watch-namespace=" .) }}{{ end }}
{{- end }}
{{- end }}
{{- $served | toYaml }}
{{- end }}

{{/* Namespaces whose resources the running operator serves and this upgrade's does not. Nothing where no cluster is asked, as with
`helm template`. Where it was one of several, the operator has a RoleBinding there, which a namespace that was deleted has no more:
the user that upgrades may get that too, for Helm changes it. Where all were served, rights are made anew, which cannot be in a namespace
that is being deleted. */}}
{{- define "mcp-auth.namespacesLeft" -}}
{{- $left := list }}
{{- if and .Values.markNotWatched .Values.rbac.create .Values.watchNamespaces .Release.IsUpgrade }}
{{- $operator := include "mcp-auth.operator" . }}
{{- $running := lookup "apps/v1" "Deployment" .Release.Namespace $operator }}
{{- $served := include "mcp-auth.namespacesServed" $running | fromYamlArray }}
{{- range $served }}
{{- if and (not (has . $.Values.watchNamespaces)) (lookup "rbac.authorization.k8s.io/v1" "RoleBinding" . (printf "%s-resources" $operator)) }}
{{- $left = append $left . }}
{{- end }}
{{- end }}
{{- if and $running (not $served) (.Capabilities.APIVersions.Has "mcpauth.dev/v1alpha1") }}
{{- $found := list }}
{{- range dig "items" (list) (lookup "mcpauth.dev/v1alpha1" "McpServerAuth" "" "") }}{{ $found = append $found .metadata.namespace }}{{ end }}
{{- range $found | uniq }}
{{- if not (or (has . $.Values.watchNamespaces) (eq (dig "status" "phase" "" (lookup "v1" "Namespace" "" .)) "Terminating")) }}
{{- $left = append $left . }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- $left | toYaml }}
{{- end }}

{{/* An image by digest, or by tag. Where `global.imageRegistry` is set, it stands in place of the repository's own registry, which is what
stands before the first slash if that has a dot or a port, or is localhost. */}}
{{- define "mcp-auth.image" -}}
{{- $root := index . 0 }}
{{- $image := index . 1 }}
{{- $repository := $image.repository }}
{{- with $root.Values.global.imageRegistry }}
{{- $parts := splitList "/" $repository }}
{{- if and (gt (len $parts) 1) (regexMatch "[.:]|^localhost$" (first $parts)) }}{{ $parts = rest $parts }}{{ end }}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) (join "/" $parts) }}
{{- end }}
{{- if $image.digest }}{{ $repository }}@{{ $image.digest }}
{{- else }}{{ $repository }}:{{ default $root.Chart.AppVersion $image.tag }}{{ end }}
{{- end }}

{{/* The environment variables of the egress proxy that have a value. */}}
{{- define "mcp-auth.egressProxy" -}}
{{- range $name, $value := dict "HTTPS_PROXY" .Values.egressProxy.httpsProxy "HTTP_PROXY" .Values.egressProxy.httpProxy "NO_PROXY" .Values.egressProxy.noProxy }}
{{- with $value }}
{{ $name }}: {{ . | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* The operator watches the metadata, and reads those that a resource refers to and no others. RBAC can say that only of names
that are known when the chart is installed: each is then watched by its name. */}}
{{- define "mcp-auth.secretRules" -}}
- apiGroups: [""]
  resources: [secrets]
  {{- with .Values.rbac.secretNames }}
  resourceNames: {{ toJson . }}
  {{- end }}
  verbs: [get, list, watch]
{{- end }}

{{/* Rules on what the operator reads and writes in the namespaces it serves. */}}
{{- define "mcp-auth.namespacedRules" -}}
- apiGroups: [mcpauth.dev]
  resources: [mcpserverauths]
  verbs: [list, watch]
- apiGroups: [mcpauth.dev]
  resources: [mcpserverauths/status]
  verbs: [patch]
{{- if eq .Values.rbac.secrets "clusterWide" }}
{{ include "mcp-auth.secretRules" . }}
{{- end }}
- apiGroups: [""]
  resources: [configmaps]
  {{- with .Values.rbac.configMapNames }}
  resourceNames: {{ toJson . }}
  {{- end }}
  verbs: [get, list, watch]
# Metadata only.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
# Which Deployment a ReplicaSet belongs to, for events where people look; and whether the workload that a reviewed pod
# names exists, since anybody can send a review. Metadata only.
- apiGroups: [apps]
  resources: [replicasets, statefulsets, daemonsets]
  verbs: [get]
{{- if ne .Values.restart.mode "Never" }}
# Restarts of LiteLLM's workloads, and whether a budget of theirs allows it.
- apiGroups: [apps]
  resources: [deployments, statefulsets, daemonsets]
  verbs: [get, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list]
{{- end }}
# Whether a namespace has opted in, for advice that fits. Metadata only.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
# What the namespace demands of the sidecar's resources.
- apiGroups: [""]
  resources: [resourcequotas, limitranges]
  verbs: [list]
{{- end }}

{{/* The ports of the proxies in egressProxy: those of the URLs, or the default ones of their schemes. */}}
{{- define "mcp-auth.egressProxyPorts" -}}
{{- $ports := list }}
{{- range $url := list .Values.egressProxy.httpsProxy .Values.egressProxy.httpProxy }}
{{- if $url }}
{{- $stated := regexFind ":[0-9]+/?$" $url | trimPrefix ":" | trimSuffix "/" }}
{{- $ports = append $ports (default (hasPrefix "https://" $url | ternary 443 80) $stated | int) }}
{{- end }}
{{- end }}
{{- $ports | uniq | toYaml }}
{{- end }}

{{/* Where the operator may connect to, with `networkPolicy.egress`. */}}
{{- define "mcp-auth.egressRules" -}}
- ports:
  - {protocol: UDP, port: 53}
  - {protocol: TCP, port: 53}
# The operator's other replicas.
- ports:
  - {protocol: TCP, port: {{ .Values.webhook.port }}}
  to:
  - podSelector:
      matchLabels: {{- include "mcp-auth.selectorLabels" . | nindent 8 }}
{{- with .Values.networkPolicy.egress.ports }}
# The API server, and authorization servers.
- ports:
  {{- range . }}
  - {protocol: TCP, port: {{ . }}}
  {{- end }}
{{- end }}
{{- with include "mcp-auth.egressProxyPorts" . | fromYamlArray }}
# The egress proxy.
- ports:
  {{- range . }}
  - {protocol: TCP, port: {{ . }}}
  {{- end }}
{{- end }}
{{- with .Values.networkPolicy.egress.extra }}
{{ toYaml . }}
{{- end }}
{{- end }}
