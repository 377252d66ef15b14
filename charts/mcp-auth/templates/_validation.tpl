{{/*
Refuses values that each are of the right type and do not go together, or that a cluster would refuse only when they have done
harm. All that is wrong is told at once. Types, ranges and unknown keys are values.schema.json's.
*/}}
{{- define "mcp-auth.validate" -}}
{{- $problems := concat
  (include "mcp-auth.nameProblems" . | fromJsonArray)
  (include "mcp-auth.imageProblems" . | fromJsonArray)
  (include "mcp-auth.auditProblems" . | fromJsonArray)
  (include "mcp-auth.resourceProblems" . | fromJsonArray)
  (include "mcp-auth.profileProblems" . | fromJsonArray)
  (include "mcp-auth.podProblems" . | fromJsonArray)
  (include "mcp-auth.networkProblems" . | fromJsonArray)
  (include "mcp-auth.availabilityProblems" . | fromJsonArray)
  (include "mcp-auth.namespaceProblems" . | fromJsonArray)
  (include "mcp-auth.certificateProblems" . | fromJsonArray)
  (include "mcp-auth.otherProblems" . | fromJsonArray)
}}
{{- if $problems }}{{ fail (printf "\n- %s" (join "\n- " $problems)) }}{{ end }}
{{- end }}

{{- define "mcp-auth.nameProblems" -}}
{{- $problems := list }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" (include "mcp-auth.fullname" .)) }}
{{- $source := printf "the release's name %q" .Release.Name }}
{{- if .Values.fullnameOverride }}{{ $source = "fullnameOverride" }}
{{- else if .Values.nameOverride }}{{ $source = printf "%s with nameOverride" $source }}{{ end }}
{{- $problems = append $problems (printf "%s gives a Service the name %q, which may hold only a-z, 0-9 and -, and begins with a letter: choose another name, or set fullnameOverride" $source (include "mcp-auth.operator" .)) }}
{{- end }}
{{- range $key, $_ := .Values.commonLabels }}
{{- if hasKey (include "mcp-auth.ownLabels" $ | fromYaml) $key }}
{{- $problems = append $problems (printf "commonLabels sets %s, which the chart sets itself: leave it out" $key) }}
{{- end }}
{{- end }}
{{- toJson $problems }}
{{- end }}

{{/* What the chart labels its objects with, whatever the values are; only the keys count. */}}
{{- define "mcp-auth.ownLabels" -}}
{{- range list "name" "instance" "component" "version" "managed-by" }}
app.kubernetes.io/{{ . }}: ""
{{- end }}
helm.sh/chart: ""
mcpauth.dev/inject: ""
mcpauth.dev/service: ""
{{- end }}

{{/* Where sidecars send audit lines; the operator checks the same at its start. */}}
{{- define "mcp-auth.auditProblems" -}}
{{- $problems := list }}
{{- with .Values.sidecar }}
{{- $endpoint := .otlp.endpoint }}
{{- if contains "@" $endpoint }}
{{- $problems = append $problems "sidecar.otlp.endpoint holds a user or a password, which everybody could read in the pods: put credentials as headers into the Secret of sidecar.otlp.headersSecret" }}
{{- else if and $endpoint (not (regexMatch "^https?://[^/?# ]+(/[^?# ]*)?$" $endpoint)) }}
{{- $problems = append $problems "sidecar.otlp.endpoint is no URL of a collector: write it as http://HOST:PORT or https://HOST:PORT" }}
{{- else if regexMatch "/v1/(logs|traces)/*$" $endpoint }}
{{- $problems = append $problems "sidecar.otlp.endpoint ends in /v1/logs or /v1/traces, which sidecars append by themselves: leave it out" }}
{{- else if regexMatch "^https?://[^/]+:4317(/|$)" $endpoint }}
{{- $problems = append $problems "sidecar.otlp.endpoint states port 4317, which takes gRPC: OTLP over HTTP is port 4318 of most collectors" }}
{{- end }}
{{- if and (or (eq .audit.output "otlp") .otlp.tracing) (not $endpoint) }}
{{- $problems = append $problems "sidecar.audit.output is otlp, or sidecar.otlp.tracing is true, and sidecar.otlp.endpoint is empty: state where the OpenTelemetry collector is" }}
{{- end }}
{{- if and .otlp.caBundle (not (contains "-----BEGIN CERTIFICATE-----" .otlp.caBundle)) }}
{{- $problems = append $problems "sidecar.otlp.caBundle holds no certificate: it is text in PEM" }}
{{- end }}
{{- end }}
{{- toJson $problems }}
{{- end }}

{{- define "mcp-auth.imageProblems" -}}
{{- $problems := list }}
{{- with .Values.global.imageRegistry }}
{{- if contains "://" . }}
{{- $problems = append $problems "global.imageRegistry begins with a scheme: leave it out, a registry is HOST, HOST:PORT or HOST/PATH" }}
{{- else if not (regexMatch "^[a-zA-Z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*/?$" .) }}
{{- $problems = append $problems "global.imageRegistry is no registry of images: it is HOST, HOST:PORT or HOST/PATH, the path in lower case" }}
{{- end }}
{{- end }}
{{- range $name, $image := dict "operator" .Values.operator.image "sidecar" .Values.sidecar.image }}
{{- $key := printf "%s.image.repository" $name }}
{{- $repository := $image.repository }}
{{- if not $repository }}
{{- $problems = append $problems (printf "%s is not set: set it to where you pushed the image to; see \"Use it\" in the project's README" $key) }}
{{- else if contains "@" $repository }}
{{- $problems = append $problems (printf "%s holds a digest: set it as %s.image.digest" $key $name) }}
{{- else if contains "://" $repository }}
{{- $problems = append $problems (printf "%s begins with a scheme: leave it out, a repository begins with the registry's host" $key) }}
{{- else if contains ":" (splitList "/" $repository | last) }}
{{- $problems = append $problems (printf "%s holds a tag: set it as %s.image.tag" $key $name) }}
{{- else if not (regexMatch "^[a-zA-Z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$" $repository) }}
{{- $problems = append $problems (printf "%s is no repository of images: it is HOST/PATH, the path in lower case" $key) }}
{{- end }}
{{- end }}
{{- toJson $problems }}
{{- end }}

{{/* A quantity such as 20m, 1.5 or 256Mi as a number. */}}
{{- define "mcp-auth.quantity" -}}
{{- $text := toString . }}
{{- $suffix := regexFind "(m|k|Ki|[MGTPE]i?)$" $text }}
{{- $factor := get (dict "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18
  "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0 "" 1.0) $suffix }}
{{- mulf (trimSuffix $suffix $text | float64) $factor }}
{{- end }}

{{- define "mcp-auth.resourceProblems" -}}
{{- $problems := list }}
{{- $form := "^([0-9]+[.]?[0-9]*|[.][0-9]+)(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?[0-9]+)?$" }}
{{- range $name, $resources := dict "operator.resources" .Values.operator.resources "sidecar.resources" .Values.sidecar.resources
  "helmTest.resources" .Values.helmTest.resources }}
{{- $limits := default (dict) $resources.limits }}
{{- range $key, $quantities := dict "requests" $resources.requests "limits" $limits }}
{{- range $resource, $quantity := $quantities }}
{{- if not (regexMatch $form (toString $quantity)) }}
{{- $problems = append $problems (printf "%s.%s.%s is no quantity: write it as 100m, 0.5 or 256Mi" $name $key $resource) }}
{{- else if and (eq $resource "memory") (eq $name "sidecar.resources") (gt (include "mcp-auth.quantity" $quantity | float64) 0.0) (lt (include "mcp-auth.quantity" $quantity | float64) 16777216.0) }}
{{- $problems = append $problems (printf "%s.%s.memory (%v) is less than 16Mi, with which no sidecar runs: write 64Mi, not 64m" $name $key $quantity) }}
{{- else if and (eq $key "requests") (regexMatch $form (get $limits $resource | toString)) }}
{{- $limit := get $limits $resource }}
{{- if gt (include "mcp-auth.quantity" $quantity | float64) (include "mcp-auth.quantity" $limit | float64) }}
{{- $problems = append $problems (printf "%s requests more %s (%v) than its limit (%v): raise limits.%s or lower requests.%s" $name $resource $quantity $limit $resource $resource) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- toJson $problems }}
{{- end }}

{{/* Profiles of the sidecar's security context; the operator checks the same at its start. */}}
{{- define "mcp-auth.profileProblems" -}}
{{- $problems := list }}
{{- $context := default (dict) .Values.sidecar.securityContext }}
{{- range $field := list "seccompProfile" "appArmorProfile" }}
{{- with get $context $field }}
{{- $key := printf "sidecar.securityContext.%s" $field }}
{{- $path := default "" .localhostProfile }}
{{- if and (eq .type "Localhost") (not $path) }}
{{- $problems = append $problems (printf "%s is of type Localhost and names no profile: set %s.localhostProfile" $key $key) }}
{{- else if and (ne .type "Localhost") $path }}
{{- $problems = append $problems (printf "%s.localhostProfile is set, and the type is %s, which has none: set the type Localhost, or leave it out" $key .type) }}
{{- else if and (eq $field "seccompProfile") (or (hasPrefix "/" $path) (has ".." (splitList "/" $path))) }}
{{- $problems = append $problems (printf "%s.localhostProfile must be a path below the kubelet's folder of profiles, without / in front and without .." $key) }}
{{- else if ne $path (trim $path) }}
{{- $problems = append $problems (printf "%s.localhostProfile begins or ends with a space: leave it out" $key) }}
{{- end }}
{{- end }}
{{- end }}
{{- toJson $problems }}
{{- end }}

{{/* What users add to the operator's pods and what the chart puts there. */}}
{{- define "mcp-auth.podProblems" -}}
{{- $problems := list }}
{{- $operator := .Values.operator }}
{{- $selector := include "mcp-auth.selectorLabels" . | fromYaml }}
{{- range $key, $_ := $operator.podLabels }}
{{- if hasKey $selector $key }}
{{- $problems = append $problems (printf "operator.podLabels sets %s, by which the chart selects the operator's pods: leave it out" $key) }}
{{- else if or (hasKey (include "mcp-auth.ownLabels" $ | fromYaml) $key) (hasKey $.Values.commonLabels $key) }}
{{- $problems = append $problems (printf "operator.podLabels sets %s, which the pods have from the chart or from commonLabels: leave it out" $key) }}
{{- end }}
{{- end }}
{{- $arguments := dict "listen" "webhook.port" "listen-health" "metrics.port" "log" "operator.log" "watch-namespace" "watchNamespaces"
  "not-watched-namespace" "markNotWatched" "excluded-namespace" "webhook.excludedNamespaces"
  "workload-identity-namespace" "workloadIdentity.namespaces" "workload-identity-audience" "workloadIdentity.audiences"
  "managed-keys-secret" "managedKeys.enabled" "listen-managed-keys" "managedKeys.port" "managed-keys-url" "managedKeys.url"
  "restart" "restart.mode" "require-secret-consent" "policy.requireSecretConsent" "authorization-server-host" "policy.authorizationServers"
  "mcp-server-host" "policy.mcpServers" "allowed-addresses" "policy.addresses" "forbid-plain-http" "policy.forbidPlainHttp"
  "max-resources-per-namespace" "limits.resourcesPerNamespace" "max-resources" "limits.resources"
  "max-selector-terms" "limits.selectorTerms" "max-parameters" "limits.parameters"
  "max-user-tokens-per-namespace" "limits.userTokensPerNamespace" "max-user-tokens" "limits.userTokens"
  "max-events-per-namespace" "limits.eventsPerNamespace"
  "webhook-namespace-selector" "webhook.namespaceSelector" "webhook-object-selector" "webhook.objectSelector"
  "sidecar-settings" "the values of sidecar" "certificate-secret" ""
  "certificate-folder" "certificates.certManager" "secrets-cluster-role" "rbac.secrets"
  "webhook-configuration" "" "lease" "" "operator-url" "" "service-account" "serviceAccount.name" "namespace" "" "identity" ""
  "pod-ip" "" "node-ip" "" "replica-token-file" "" }}
{{- range $operator.extraArgs }}
{{- $argument := splitList "=" . | first | trimPrefix "--" }}
{{- if hasKey $arguments $argument }}
{{- $instead := get $arguments $argument }}
{{- $problems = append $problems (printf "operator.extraArgs sets --%s, which the chart sets itself: %s" $argument ($instead | empty | ternary "leave it out" (printf "use %s" $instead))) }}
{{- end }}
{{- end }}
{{- $names := list "POD_NAMESPACE" "POD_NAME" "POD_SERVICE_ACCOUNT" "POD_IP" "NODE_IP" }}
{{- if or .Values.trustBundle.configMap .Values.trustBundle.secret }}{{ $names = concat $names (list "SSL_CERT_FILE" "SSL_CERT_DIR") }}{{ end }}
{{- range $name, $_ := include "mcp-auth.egressProxy" . | fromYaml }}{{ $names = concat $names (list $name (lower $name)) }}{{ end }}
{{- range $operator.extraEnv }}
{{- if has .name $names }}
{{- $problems = append $problems (printf "operator.extraEnv sets %s, which is set already: leave it out" .name) }}
{{- end }}
{{- $names = append $names .name }}
{{- end }}
{{- $volumes := list "sidecar" "trust-bundle" "identity" "certificates" }}
{{- range $operator.extraVolumes }}
{{- if has .name $volumes }}
{{- $problems = append $problems (printf "operator.extraVolumes has a volume %s, a name that is taken already: choose another" .name) }}
{{- end }}
{{- $volumes = append $volumes .name }}
{{- end }}
{{- $containers := list "operator" }}
{{- range $key := list "extraContainers" "extraInitContainers" }}
{{- range get $operator $key }}
{{- if has .name $containers }}
{{- $problems = append $problems (printf "operator.%s has a container %s, a name that is taken already: choose another" $key .name) }}
{{- end }}
{{- $containers = append $containers .name }}
{{- end }}
{{- end }}
{{- $fields := dict "affinity" "operator.affinity" "automountServiceAccountToken" "serviceAccount.automount" "containers" "operator.extraContainers"
  "dnsConfig" "operator.dnsConfig" "dnsPolicy" "operator.dnsPolicy" "hostAliases" "operator.hostAliases" "hostNetwork" "operator.hostNetwork"
  "hostUsers" "operator.hostUsers" "imagePullSecrets" "imagePullSecrets" "initContainers" "operator.extraInitContainers"
  "nodeSelector" "operator.nodeSelector" "priorityClassName" "operator.priorityClassName" "runtimeClassName" "operator.runtimeClassName"
  "securityContext" "operator.podSecurityContext" "serviceAccountName" "serviceAccount.name" "serviceAccount" "serviceAccount.name"
  "tolerations" "operator.tolerations" "topologySpreadConstraints" "operator.topologySpreadConstraints" "volumes" "operator.extraVolumes" }}
{{- range $field, $_ := $operator.podSpecExtra }}
{{- if hasKey $fields $field }}
{{- $problems = append $problems (printf "operator.podSpecExtra sets %s, which has a value of its own: use %s" $field (get $fields $field)) }}
{{- else if eq $field "restartPolicy" }}
{{- $problems = append $problems "operator.podSpecExtra sets restartPolicy, which is Always in every Deployment: leave it out" }}
{{- end }}
{{- end }}
{{- with $operator.startupProbe }}
{{- $seconds := mul (default 10 .periodSeconds) (default 3 .failureThreshold) }}
{{- if lt (int $seconds) 10 }}
{{- $problems = append $problems (printf "operator.startupProbe gives the operator %d s to start, after which the kubelet kills it, again and again: set periodSeconds times failureThreshold to 10 or more" $seconds) }}
{{- end }}
{{- end }}
{{- if kindIs "invalid" $operator.readinessProbe }}
{{- $problems = append $problems "operator.readinessProbe is null, so that a replica would be asked before it can answer, and LiteLLM's pods would start without the sidecar: leave it" }}
{{- end }}
{{- if and (eq $operator.dnsPolicy "None") (not (get (default (dict) $operator.dnsConfig) "nameservers")) }}
{{- $problems = append $problems "operator.dnsPolicy is None and operator.dnsConfig names no nameservers, so that no name would resolve: set operator.dnsConfig.nameservers" }}
{{- end }}
{{- $paths := list "/etc/mcp-auth" "/etc/mcp-auth-trust" "/var/run/mcpauth/identity" "/var/run/mcpauth/certificates" }}
{{- range $operator.extraVolumeMounts }}
{{- $path := trimSuffix "/" .mountPath }}
{{- if has $path $paths }}
{{- $problems = append $problems (printf "operator.extraVolumeMounts mounts at %s, where something is mounted already: choose another path" $path) }}
{{- end }}
{{- if not (has .name $volumes) }}
{{- $problems = append $problems (printf "operator.extraVolumeMounts mounts the volume %s, which is not in operator.extraVolumes: add it there" .name) }}
{{- end }}
{{- $paths = append $paths $path }}
{{- end }}
{{- if not (or .Values.serviceAccount.automount (has "/var/run/secrets/kubernetes.io/serviceaccount" $paths)) }}
{{- $problems = append $problems "serviceAccount.automount is false and nothing is mounted at /var/run/secrets/kubernetes.io/serviceaccount, so that the operator could not reach the API server: mount a token there by operator.extraVolumes and operator.extraVolumeMounts" }}
{{- end }}
{{- toJson $problems }}
{{- end }}

{{- define "mcp-auth.networkProblems" -}}
{{- $problems := list }}
{{- $ports := dict "webhook.port" .Values.webhook.port "metrics.port" .Values.metrics.port }}
{{- if .Values.managedKeys.enabled }}{{ $ports = set $ports "managedKeys.port" .Values.managedKeys.port }}{{ end }}
{{- $taken := dict }}
{{- range $key := list "webhook.port" "metrics.port" "managedKeys.port" }}
{{- if hasKey $ports $key }}
{{- $port := get $ports $key | int | toString }}
{{- if hasKey $taken $port }}
{{- $problems = append $problems (printf "%s and %s are both %s: choose two" (get $taken $port) $key $port) }}
{{- else }}{{ $taken = set $taken $port $key }}{{ end }}
{{- end }}
{{- end }}
{{- with .Values.managedKeys }}
{{- if and .url (not .enabled) }}
{{- $problems = append $problems "managedKeys.url is set, and managedKeys.enabled is false, so that nothing is published there: set it to true, or leave the other out" }}
{{- end }}
{{- if contains "@" .url }}
{{- $problems = append $problems "managedKeys.url holds a user or a password, which every authorization server would be told: leave them out" }}
{{- else if and .url (not (regexMatch "^https?://[^/?# ]+(/[^?# ]*)?$" .url)) }}
{{- $problems = append $problems "managedKeys.url is no URL that paths can be put behind: write it as https://HOST or https://HOST/PATH" }}
{{- end }}
{{- end }}
{{- if .Values.operator.hostNetwork }}
{{- range $key, $port := $ports }}
{{- if eq (int $port) 10250 }}
{{- $problems = append $problems (printf "%s is 10250, which is the kubelet's on the node's network: with operator.hostNetwork choose another, such as 10260" $key) }}
{{- else if lt (int $port) 1024 }}
{{- $problems = append $problems (printf "%s is below 1024, which needs root on the node's network: with operator.hostNetwork choose another, such as 10260" $key) }}
{{- end }}
{{- end }}
{{- if eq (toString .Values.operator.hostUsers) "false" }}
{{- $problems = append $problems "operator.hostUsers is false, and pods on the node's network have no user namespace of their own: take it or operator.hostNetwork off" }}
{{- end }}
{{- if .Values.networkPolicy.enabled }}
{{- $problems = append $problems "networkPolicy.enabled has no effect on pods on the node's network: take it or operator.hostNetwork off" }}
{{- end }}
{{- end }}
{{- with .Values.networkPolicy }}
{{- $without := list }}
{{- if .from }}{{ $without = append $without "networkPolicy.from is" }}{{ end }}
{{- if .metricsFrom }}{{ $without = append $without "networkPolicy.metricsFrom is" }}{{ end }}
{{- if .keysFrom }}{{ $without = append $without "networkPolicy.keysFrom is" }}{{ end }}
{{- if .egress.enabled }}{{ $without = append $without "networkPolicy.egress.enabled is" }}{{ end }}
{{- if and $without (not .enabled) }}
{{- range $without }}
{{- $problems = append $problems (printf "%s set, and networkPolicy.enabled is false, so that no NetworkPolicy is made: set it to true, or leave the other out" .) }}
{{- end }}
{{- end }}
{{- if and .keysFrom (not $.Values.managedKeys.enabled) }}
{{- $problems = append $problems "networkPolicy.keysFrom is set, and managedKeys.enabled is false, so that no keys are published: set it to true, or leave the other out" }}
{{- end }}
{{- if and .egress.extra (not .egress.enabled) }}
{{- $problems = append $problems "networkPolicy.egress.extra is set, and networkPolicy.egress.enabled is false, so that nothing restricts where the operator connects to: set it to true, or leave the other out" }}
{{- end }}
{{- end }}
{{- toJson $problems }}
{{- end }}

{{- define "mcp-auth.availabilityProblems" -}}
{{- $problems := list }}
{{- /* null: something else says how many, such as a HorizontalPodAutoscaler */}}
{{- $isCountKnown := not (kindIs "invalid" .Values.operator.replicas) }}
{{- $replicas := int .Values.operator.replicas }}
{{- with .Values.podDisruptionBudget }}
{{- $minimum := toString .minAvailable }}
{{- $available := 0 }}
{{- if regexMatch "^[0-9]+$" $minimum }}{{ $available = int $minimum }}
{{- else if $minimum }}{{ $available = ceil (divf (mulf (trimSuffix "%" $minimum | float64) $replicas) 100) | int }}{{ end }}
{{- if and (ne $minimum "") (ne (toString .maxUnavailable) "") }}
{{- $problems = append $problems "podDisruptionBudget.minAvailable and podDisruptionBudget.maxUnavailable are both set: choose one" }}
{{- else if and .enabled $minimum $isCountKnown (ge $available $replicas) }}
{{- $problems = append $problems (printf "podDisruptionBudget.minAvailable is %s with %d operator.replicas, so that no node they run on could be drained: raise operator.replicas, or set maxUnavailable" $minimum $replicas) }}
{{- else if and .enabled (regexMatch "^0+%?$" (toString .maxUnavailable)) }}
{{- $problems = append $problems (printf "podDisruptionBudget.maxUnavailable is %s, so that no node that a replica runs on could be drained: set 1 or more" (toString .maxUnavailable)) }}
{{- end }}
{{- end }}
{{- if and $isCountKnown (eq $replicas 0) (eq .Values.webhook.failurePolicy "Fail") }}
{{- $problems = append $problems "operator.replicas is 0 and webhook.failurePolicy is Fail, so that no LiteLLM pod could start: set Ignore, or a replica" }}
{{- end }}
{{- if and (eq (get .Values.operator.strategy "type") "Recreate") (hasKey .Values.operator.strategy "rollingUpdate") }}
{{- $problems = append $problems "operator.strategy has rollingUpdate with type Recreate: leave it out, or set type RollingUpdate" }}
{{- end }}
{{- toJson $problems }}
{{- end }}

{{- define "mcp-auth.namespaceProblems" -}}
{{- $problems := list }}
{{- $watched := .Values.watchNamespaces }}
{{- $excluded := concat (list "kube-system" "kube-node-lease") .Values.webhook.excludedNamespaces }}
{{- if has .Release.Namespace $watched }}
{{- $problems = append $problems (printf "watchNamespaces holds %s, the release's own namespace, where the operator would get the right to read every Secret, the key of its own authority among them: install the operator in another namespace" .Release.Namespace) }}
{{- end }}
{{- range $watched }}
{{- if has . $excluded }}
{{- $problems = append $problems (printf "watchNamespaces holds %s, where pods are never injected: take it out there, or out of webhook.excludedNamespaces" .) }}
{{- end }}
{{- end }}
{{- $selectors := dict "namespaceSelector" (list "mcpauth.dev/injection" "kubernetes.io/metadata.name") "objectSelector" (list "mcpauth.dev/inject") }}
{{- range $name, $own := $selectors }}
{{- $selector := get $.Values.webhook $name }}
{{- $keys := keys (default (dict) $selector.matchLabels) }}
{{- range $selector.matchExpressions }}
{{- $keys = append $keys .key }}
{{- $hasValues := not (empty .values) }}
{{- if ne $hasValues (has .operator (list "In" "NotIn")) }}
{{- $problems = append $problems (printf "webhook.%s: the expression of %s has the operator %s and %s: In and NotIn have values, Exists and DoesNotExist none" $name .key .operator (ternary "values" "no values" $hasValues)) }}
{{- end }}
{{- end }}
{{- range $keys }}
{{- if has . $own }}
{{- $problems = append $problems (printf "webhook.%s has a condition on %s, by which the webhook selects already: %s" $name . (eq . "kubernetes.io/metadata.name" | ternary "use webhook.excludedNamespaces or watchNamespaces" "leave it out")) }}
{{- end }}
{{- end }}
{{- end }}
{{- if eq .Values.rbac.secrets "perNamespace" }}
{{- if $watched }}
{{- $problems = append $problems "rbac.secrets is perNamespace and watchNamespaces is set, where the chart gives the operator its rights in each of these namespaces itself: leave one of both out" }}
{{- else if not .Values.rbac.create }}
{{- $problems = append $problems "rbac.secrets is perNamespace and rbac.create is false, so that there is no ClusterRole to bind: leave one of both out" }}
{{- end }}
{{- end }}
{{- with .Values.workloadIdentity }}
{{- if not .namespaces }}
{{- range $key := list "serviceAccountNames" "audiences" }}
{{- if get $.Values.workloadIdentity $key }}
{{- $problems = append $problems (printf "workloadIdentity.%s is set, and workloadIdentity.namespaces is empty, so that no resource may use workload identity: name the namespaces, or leave the other out" $key) }}
{{- end }}
{{- end }}
{{- else if and .serviceAccountNames (not $.Values.rbac.create) }}
{{- $problems = append $problems "workloadIdentity.serviceAccountNames is set, and rbac.create is false, so that there is no Role that it could bound: leave it out, and name the ServiceAccounts as resourceNames in the Role of your own" }}
{{- end }}
{{- end }}
{{- if $watched }}
{{- range .Values.workloadIdentity.namespaces }}
{{- if not (has . $watched) }}
{{- $problems = append $problems (printf "workloadIdentity.namespaces holds %s, which is not in watchNamespaces: add it there, or take it out here" .) }}
{{- end }}
{{- end }}
{{- range .Values.helmTest.namespaces }}
{{- if not (has . $watched) }}
{{- $problems = append $problems (printf "helmTest.namespaces holds %s, which is not in watchNamespaces: add it there, or take it out here" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.helmTest.litellmKeySecret.name (not .Values.helmTest.callServers) }}
{{- $problems = append $problems "helmTest.litellmKeySecret is for calling LiteLLM, which helmTest.callServers: false rules out: set one of the two" }}
{{- end }}
{{- if and .Values.helmTest.litellmKeySecret.name .Values.helmTest.enabled .Values.rbac.create (not .Values.helmTest.namespaces) (not .Values.watchNamespaces) }}
{{- $problems = append $problems "helmTest.litellmKeySecret would let the test read the Secrets of this name, and forward ports of pods, in every namespace: set helmTest.namespaces to those with LiteLLM" }}
{{- end }}
{{- toJson $problems }}
{{- end }}

{{/* A duration such as 720h or 1h30m, in seconds. */}}
{{- define "mcp-auth.seconds" -}}
{{- $seconds := 0 }}
{{- range regexFindAll "[0-9]+[hms]" (toString .) -1 }}
{{- $unit := get (dict "h" 3600 "m" 60 "s" 1) (regexFind "[hms]$" .) }}
{{- $seconds = add $seconds (mul $unit (regexFind "^[0-9]+" . | int64)) }}
{{- end }}
{{- $seconds }}
{{- end }}

{{- define "mcp-auth.certificateProblems" -}}
{{- $problems := list }}
{{- with .Values.certificates.certManager }}
{{- $given := list }}
{{- if .issuerRef.name }}{{ $given = append $given "issuerRef.name" }}{{ end }}
{{- if .fingerprintKeySecret }}{{ $given = append $given "fingerprintKeySecret" }}{{ end }}
{{- if and $given (not .enabled) }}
{{- $problems = append $problems (printf "certificates.certManager.%s is set, and certificates.certManager.enabled is false: set it to true, or leave the other out" (first $given)) }}
{{- end }}
{{- if and .enabled (not .issuerRef.name) (ne .issuerRef.kind "Issuer") }}
{{- $problems = append $problems (printf "certificates.certManager.issuerRef.kind is %s, and no issuer is named: set certificates.certManager.issuerRef.name" .issuerRef.kind) }}
{{- end }}
{{- $key := include "mcp-auth.privateKey" $ | fromYaml }}
{{- $size := int $key.size }}
{{- if and (eq $key.algorithm "RSA") (or (lt $size 2048) (gt $size 4096)) }}
{{- $problems = append $problems (printf "certificates.certManager.privateKey.size is %d with the algorithm RSA: set 2048, 3072 or 4096, or leave it out for 2048" $size) }}
{{- else if and (eq $key.algorithm "ECDSA") (not (has $size (list 256 384))) }}
{{- $problems = append $problems (printf "certificates.certManager.privateKey.size is %d with the algorithm ECDSA: set 256 or 384, or leave it out for 256" $size) }}
{{- else if and (eq $key.algorithm "Ed25519") (hasKey $key "size") }}
{{- $problems = append $problems (printf "certificates.certManager.privateKey.size is %d with the algorithm Ed25519, whose keys have one size: leave it out" $size) }}
{{- end }}
{{- $life := include "mcp-auth.seconds" (default "2160h" .duration) | int64 }}
{{- $before := include "mcp-auth.seconds" .renewBefore | int64 }}
{{- if and .renewBefore (ge $before $life) }}
{{- $problems = append $problems (printf "certificates.certManager.renewBefore is %s, and the certificate lives no longer than %s, so that it would always be renewed: set less, or a longer certificates.certManager.duration" .renewBefore (default "2160h, cert-manager's default" .duration)) }}
{{- end }}
{{- if hasKey $.Values.webhook.annotations "cert-manager.io/inject-ca-from" }}
{{- $problems = append $problems "webhook.annotations sets cert-manager.io/inject-ca-from, by which cert-manager would write another authority than that of the operator: set certificates.certManager.enabled, and leave it out" }}
{{- end }}
{{- end }}
{{- toJson $problems }}
{{- end }}

{{- define "mcp-auth.otherProblems" -}}
{{- $problems := list }}
{{- if not (or .Values.serviceAccount.create .Values.serviceAccount.name) }}
{{- $problems = append $problems "serviceAccount.create is false and serviceAccount.name is empty: name the ServiceAccount that there is" }}
{{- end }}
{{- if and .Values.trustBundle.configMap .Values.trustBundle.secret }}
{{- $problems = append $problems "trustBundle.configMap and trustBundle.secret are both set: choose one" }}
{{- end }}
{{- range $key := list "httpsProxy" "httpProxy" }}
{{- $url := get $.Values.egressProxy $key }}
{{- if contains "@" $url }}
{{- $problems = append $problems (printf "egressProxy.%s holds a user, which everybody could read in the Deployment: set the variable by operator.extraEnv with valueFrom.secretKeyRef" $key) }}
{{- else if and $url (not (regexMatch "^(https?://)?([^/:?# ]+|\\[[0-9A-Fa-f:.]+\\])(:[0-9]{1,5})?/?$" $url)) }}
{{- $problems = append $problems (printf "egressProxy.%s is no URL of a proxy: write it as http://HOST:PORT" $key) }}
{{- end }}
{{- end }}
{{- if regexMatch "[^,\\s]\\s+[^,\\s]" .Values.egressProxy.noProxy }}
{{- $problems = append $problems "egressProxy.noProxy separates by blanks, which makes one entry that fits no host: separate hosts, suffixes and networks by commas, as .svc,10.0.0.0/8" }}
{{- end }}
{{- range $name, $labels := dict "prometheusRule" .Values.prometheusRule.labels "dashboard" .Values.dashboard.labels }}
{{- range $key, $_ := $labels }}
{{- if or (hasKey (include "mcp-auth.ownLabels" $ | fromYaml) $key) (hasKey $.Values.commonLabels $key) }}
{{- $problems = append $problems (printf "%s.labels sets %s, which it has from the chart or from commonLabels: leave it out" $name $key) }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.metrics }}
{{- if and .serviceMonitor.enabled (not .service.enabled) }}
{{- $problems = append $problems "metrics.serviceMonitor.enabled is true without a Service to scrape: set metrics.service.enabled, or use metrics.podMonitor" }}
{{- end }}
{{- if and .serviceMonitor.enabled .podMonitor.enabled }}
{{- $problems = append $problems "metrics.serviceMonitor.enabled and metrics.podMonitor.enabled are both true, so that every pod would be scraped twice: choose one" }}
{{- end }}
{{- range $name, $monitor := dict "serviceMonitor" .serviceMonitor "podMonitor" .podMonitor }}
{{- range $key, $_ := $monitor.labels }}
{{- if hasKey (include "mcp-auth.ownLabels" $ | fromYaml) $key }}
{{- $problems = append $problems (printf "metrics.%s.labels sets %s, which the chart sets itself: leave it out" $name $key) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- toJson $problems }}
{{- end }}
