//! Version of the operator that is installed, as the chart labels its webhook configuration.

use kube::ResourceExt;

use crate::cluster::Cluster;
use crate::error::CliError;
use crate::webhook_scope::webhook_configurations;

const VERSION_LABEL: &str = "app.kubernetes.io/version";

/// None where the webhook configuration may not be read, is not there or does not say it.
pub async fn operator_version(cluster: &Cluster) -> Result<Option<String>, CliError> {
    let webhooks = webhook_configurations(cluster).await?.unwrap_or_default();
    Ok(webhooks.iter().find_map(stated_version))
}

/// As the chart labels its objects.
pub fn stated_version(object: &impl ResourceExt) -> Option<String> {
    object.labels().get(VERSION_LABEL).cloned()
}

/// The three numbers of a version, to compare by.
pub fn numbers(version: &str) -> Option<[u64; 3]> {
    let release = version.split(['-', '+']).next()?;
    let parts: Vec<u64> = release
        .split('.')
        .map(|part| part.parse().ok())
        .collect::<Option<_>>()?;
    parts.try_into().ok()
}
