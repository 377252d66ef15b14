//! Webhooks that are called after this one and may still bring what a pod lacks at the first look. The API
//! server asks again when they have changed the pod, and only then it is decided.

use k8s_openapi::api::core::v1::Pod;

use super::annotations::annotation;
use super::error::InjectionError;

/// How a pod asks such a webhook, and by what it shows that it has been there.
const WEBHOOKS: [(&str, &str); 4] = [
    (
        "vault.hashicorp.com/agent-inject",
        "vault.hashicorp.com/agent-inject-status",
    ),
    ("operator.1password.io/inject", "operator.1password.io/status"),
    (
        "vault.security.banzaicloud.io/vault-ct-configmap",
        "vault.security.banzaicloud.io/mutated",
    ),
    (
        "vault.security.banzaicloud.io/vault-agent",
        "vault.security.banzaicloud.io/mutated",
    ),
];

/// Whether the error is one of a pod that is not complete yet.
pub(super) fn may_mend(pod: &Pod, error: &InjectionError) -> bool {
    let is_of_volumes = matches!(error, InjectionError::ConfigInImage { .. });
    let is_awaited = |(asked, done): &(&str, &str)| {
        annotation(pod, asked).is_some_and(|value| value != "false") && annotation(pod, done).is_none()
    };
    is_of_volumes && WEBHOOKS.iter().any(is_awaited)
}
