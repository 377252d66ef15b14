//! The kubeconfig, found where kubectl finds it, to a client's configuration; and what is wrong with it in words that never
//! repeat its content, which may hold a token.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError, LoadDataError};
use mcp_auth_operator::kubeconfig::{self, ProxyError};
use thiserror::Error;

const VARIABLE: &str = "KUBECONFIG";

/// Which cluster, as the command line names it.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    pub kubeconfig: Option<PathBuf>,
    pub context: Option<String>,
}

#[derive(Debug, Error)]
pub enum LoadError {
    #[error("the kubeconfig {place} cannot be used: {problem}")]
    Unusable { place: String, problem: String },
    #[error("the cluster of the kubeconfig {place} cannot be reached: {problem}")]
    Proxy { place: String, problem: ProxyError },
    #[error(
        "no cluster is configured: there is no {place}, and this is no pod; name a kubeconfig with --kubeconfig or KUBECONFIG"
    )]
    NoCluster { place: String },
}

/// What the command line names, else `KUBECONFIG`, else `~/.kube/config`; in a pod, the pod's own ServiceAccount.
pub async fn load(options: &ClusterOptions) -> Result<Config, LoadError> {
    let place = place(options.kubeconfig.as_deref(), std::env::var(VARIABLE).ok());
    let by_context = KubeConfigOptions {
        context: options.context.clone(),
        ..KubeConfigOptions::default()
    };
    let error = match from_file(options.kubeconfig.as_deref(), &by_context).await {
        Ok(config) => return Ok(config),
        Err(kubeconfig::LoadError::Proxy(problem)) => return Err(LoadError::Proxy { place, problem }),
        Err(kubeconfig::LoadError::Kubeconfig(error)) => error,
    };
    let is_default = options.kubeconfig.is_none() && options.context.is_none();
    if is_default && let Ok(config) = Config::incluster() {
        return Ok(config);
    }
    let is_nowhere = is_default && std::env::var_os(VARIABLE).is_none_or(|value| value.is_empty());
    Err(match &error {
        KubeconfigError::ReadConfig(error, _) if is_nowhere && error.kind() == io::ErrorKind::NotFound => {
            LoadError::NoCluster { place }
        }
        error => LoadError::Unusable {
            problem: problem(error, &place),
            place,
        },
    })
}

async fn from_file(
    path: Option<&Path>,
    options: &KubeConfigOptions,
) -> Result<Config, kubeconfig::LoadError> {
    let kubeconfig = match path {
        Some(path) => Kubeconfig::read_from(path)?,
        None => Kubeconfig::read()?,
    };
    kubeconfig::load(kubeconfig, options).await
}

/// Where it is looked for, as people name it.
fn place(stated: Option<&Path>, variable: Option<String>) -> String {
    match (stated, variable.filter(|value| !value.is_empty())) {
        (Some(path), _) => path.display().to_string(),
        (None, Some(value)) => format!("{value} (KUBECONFIG)"),
        (None, None) => "~/.kube/config".to_owned(),
    }
}

/// What is wrong, and the way out.
fn problem(error: &KubeconfigError, place: &str) -> String {
    let another = "name another with --kubeconfig";
    match error {
        KubeconfigError::CurrentContextNotSet => format!(
            "it is empty or names no current context: choose one with --context or `kubectl config use-context`, or {another}"
        ),
        KubeconfigError::LoadContext(name) => {
            format!("it has no context {name}: `kubectl config get-contexts` lists those that it has")
        }
        KubeconfigError::LoadClusterOfContext(name) => {
            format!(
                "its context names the cluster {name}, which it has not: add it with `kubectl config set-cluster`"
            )
        }
        KubeconfigError::ReadConfig(error, path) => {
            // KUBECONFIG may name several.
            let path = path.display().to_string();
            let file = match place == path {
                true => String::new(),
                false => format!("{path}: "),
            };
            format!("{file}{}; {another}", reading(error))
        }
        // Its words may quote the line, and with it a token.
        KubeconfigError::Parse(error) => match error.location() {
            Some(at) => format!(
                "it is no YAML of a kubeconfig, at line {}, column {}: mend it, or {another}",
                at.line(),
                at.column()
            ),
            None => format!("it is no YAML of a kubeconfig: mend it, or {another}"),
        },
        KubeconfigError::MissingClusterUrl => {
            "its cluster has no server: set it with `kubectl config set-cluster`".to_owned()
        }
        KubeconfigError::LoadCertificateAuthority(error) => data("certificate-authority", error),
        KubeconfigError::LoadClientCertificate(error) => data("client-certificate", error),
        KubeconfigError::LoadClientKey(error) => data("client-key", error),
        KubeconfigError::ParseClusterUrl(error) => with_field("the server of its cluster is no URL", error),
        KubeconfigError::ParseCertificates(error) => with_field("its certificate-authority is no PEM", error),
        error => error.to_string(),
    }
}

/// Why a file cannot be read.
pub fn reading(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        kind => format!("it cannot be read ({kind})"),
    }
}

fn data(field: &str, error: &LoadDataError) -> String {
    match error {
        LoadDataError::ReadFile(error, path) => {
            let path = path.display();
            format!(
                "its {field} names {path}, and {}: give the path of the file",
                reading(error)
            )
        }
        LoadDataError::DecodeBase64(_) => format!("its {field}-data is no base64"),
        LoadDataError::NoBase64DataOrFile => format!("it has neither {field} nor {field}-data"),
    }
}

fn with_field(what: &str, error: &impl Display) -> String {
    format!("{what}: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "apiVersion: v1
kind: Config
current-context: here
clusters: [{name: c, cluster: {server: 'https://127.0.0.1:6443'}}]
users: [{name: u, user: {token: s3cret}}]
contexts: [{name: here, context: {cluster: c, user: u}}]
";

    async fn told(text: Option<&str>, context: Option<&str>) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let options = ClusterOptions {
            kubeconfig: Some(path.clone()),
            context: context.map(str::to_owned),
        };
        let text = load(&options).await.map_err(|error| error.to_string());
        text.map(drop)
            .map_err(|text| text.replace(path.to_str().unwrap(), "FILE"))
    }

    #[tokio::test]
    async fn what_is_wrong_is_told_with_the_file_and_a_way_out_and_without_its_content() {
        assert_eq!(told(Some(CONFIG), None).await, Ok(()));
        let stray = CONFIG.replace("token: s3cret}", "token: s3cret");
        for (text, context, expected) in [
            (
                None,
                None,
                "there is no such file; name another with --kubeconfig",
            ),
            (
                Some(""),
                None,
                "it is empty or names no current context: choose one with --context",
            ),
            (
                Some(CONFIG),
                Some("there"),
                "it has no context there: `kubectl config get-contexts`",
            ),
            (
                Some(&*CONFIG.replace("cluster: c,", "cluster: d,")),
                None,
                "its context names the cluster d, which it has not",
            ),
            (Some(&stray), None, "it is no YAML of a kubeconfig, at line"),
            (Some("garbage"), None, "it is no YAML of a kubeconfig"),
            (
                Some(&*CONFIG.replace("server: 'https://127.0.0.1:6443'", "tls-server-name: a")),
                None,
                "its cluster has no server",
            ),
            (
                Some(&*CONFIG.replace("6443'", "6443', certificate-authority: ca.crt")),
                None,
                "its certificate-authority names",
            ),
        ] {
            let error = told(text, context).await.unwrap_err();
            let beginning = "the kubeconfig FILE cannot be used: ";
            assert!(
                error.starts_with(beginning) && error.contains(expected),
                "{expected}: {error}"
            );
            assert!(
                !error.contains("s3cret") && !error.contains("os error"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_place_is_what_people_set() {
        assert_eq!(place(Some(Path::new("/a")), Some("/b".to_owned())), "/a");
        assert_eq!(place(None, Some("/b:/c".to_owned())), "/b:/c (KUBECONFIG)");
        assert_eq!(place(None, Some(String::new())), "~/.kube/config");
    }
}
