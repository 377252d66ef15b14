//! Where the sidecar's audit lines and spans go: what the chart says for all pods, and what the pod's annotations say
//! instead. What cannot be done in this pod is a warning, and the lines go to standard output: nobody's calls are lost over it.

use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, PodSpec, SecretKeySelector, VolumeMount};
use mcp_auth_protocol::pod::env;

use super::annotations::{AUDIT_OUTPUT, AUDIT_VOLUME};
use super::environment_entries::literal;
use super::options::PodOptions;
use super::reserved::{AUDIT_FOLDER, is_reserved_volume};
use super::settings::{AuditOutput, SecretKey, Settings};

/// What the sidecar's container gets for it.
#[derive(Debug, Default)]
pub(super) struct AuditPlan {
    /// They come after the name of the pod, which the file's name refers to.
    pub variables: Vec<EnvVar>,
    pub mount: Option<VolumeMount>,
    /// Why the lines do not go where they were to.
    pub problem: Option<String>,
}

pub(super) fn plan(spec: &PodSpec, options: &PodOptions, settings: &Settings) -> AuditPlan {
    let output = options.audit_output.unwrap_or(settings.audit.output);
    let traces = options.tracing.unwrap_or(settings.otlp.tracing);
    let mut plan = match output {
        AuditOutput::File => file(spec, options, settings),
        AuditOutput::Stdout | AuditOutput::Otlp => AuditPlan::default(),
    };
    if output != AuditOutput::Otlp && !traces {
        return plan;
    }
    match collector(options, settings) {
        Some(collector) => {
            plan.variables.extend(collector);
            if output == AuditOutput::Otlp {
                plan.variables.push(literal(env::AUDIT_LOG, "otlp"));
            }
            if traces {
                plan.variables.push(literal(env::TRACING, "enabled"));
            }
        }
        None => plan.problem = plan.problem.or(Some(NO_COLLECTOR.to_owned())),
    }
    plan
}

const NO_COLLECTOR: &str = "nothing is sent by OTLP, and audit lines go to standard output: the annotation \
                            mcpauth.dev/otlp-endpoint or the chart's sidecar.otlp.endpoint has to say where the OpenTelemetry \
                            collector is";

fn file(spec: &PodSpec, options: &PodOptions, settings: &Settings) -> AuditPlan {
    let stated = options.audit_volume.as_deref().or(settings.audit.volume());
    let Some(name) = stated else {
        return AuditPlan::problem(format!(
            "nothing says which volume the file is to be in: set the annotation {AUDIT_VOLUME}"
        ));
    };
    let mut volumes = spec.volumes.iter().flatten();
    if is_reserved_volume(name) || !volumes.any(|volume| volume.name == name) {
        return AuditPlan::problem(format!(
            "the pod has no volume of its own by the name that the annotation {AUDIT_VOLUME} or the chart's \
             sidecar.audit.volume states: add it to the pod"
        ));
    }
    // The kubelet puts the names in. Pods of a node may share the volume.
    let (namespace, pod) = (env::POD_NAMESPACE, env::POD_NAME);
    let path = format!("{AUDIT_FOLDER}/$({namespace})_$({pod}).log");
    AuditPlan {
        variables: vec![EnvVar {
            name: env::AUDIT_LOG.to_owned(),
            value: Some(path),
            value_from: None,
        }],
        mount: Some(VolumeMount {
            name: name.to_owned(),
            mount_path: AUDIT_FOLDER.to_owned(),
            ..VolumeMount::default()
        }),
        problem: None,
    }
}

/// How the sidecar calls the collector, if anything says where that is.
fn collector(options: &PodOptions, settings: &Settings) -> Option<Vec<EnvVar>> {
    let annotated = options.otlp_headers_secret.as_ref();
    // Credentials are for one collector: with one of the pod's own, those of the chart's stay here.
    let (endpoint, headers) = match &options.otlp_endpoint {
        Some(endpoint) => (endpoint.as_str(), annotated),
        None => (
            settings.otlp.endpoint()?,
            annotated.or(settings.otlp.headers_secret()),
        ),
    };
    let mut variables = vec![literal(env::OTLP_ENDPOINT, endpoint)];
    variables.extend(headers.map(headers_variable));
    variables.extend(settings.otlp.ca_bundle().map(|ca| literal(env::OTLP_CA, ca)));
    Some(variables)
}

/// A Secret that is missing costs audit lines, which the sidecar tells, and no start of a pod.
fn headers_variable(secret: &SecretKey) -> EnvVar {
    EnvVar {
        name: env::OTLP_HEADERS.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(SecretKeySelector {
                name: secret.name.clone(),
                key: secret.key.clone(),
                optional: Some(true),
            }),
            ..EnvVarSource::default()
        }),
    }
}

impl AuditPlan {
    fn problem(problem: String) -> Self {
        Self {
            problem: Some(format!(
                "audit lines go to standard output, not where {AUDIT_OUTPUT} or the chart says: {problem}"
            )),
            ..Self::default()
        }
    }
}
