//! The kubeconfig, found where kubectl finds it, to a client's configuration; and what is wrong with it in words that never
//! repeat its content, which may hold a token.

use std::io;
use std::path::{Path, PathBuf};

use kube::Config;
use kube::config::{InClusterError, Kubeconfig, KubeconfigError, LoadDataError};
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
    #[error(
        "the ServiceAccount of this pod cannot be used: {problem}: let the pod have its token \
         (automountServiceAccountToken), or name a kubeconfig with --kubeconfig or KUBECONFIG"
    )]
    Pod { problem: InClusterError },
}

/// What the command line names, else `KUBECONFIG`, else `~/.kube/config`; in a pod, the pod's own ServiceAccount.
pub fn load(options: &ClusterOptions) -> Result<Config, LoadError> {
    let place = place(options.kubeconfig.as_deref(), std::env::var(VARIABLE).ok());
    let error = match from_file(options) {
        Ok(config) => return Ok(config),
        Err(kubeconfig::LoadError::Proxy(problem)) => return Err(LoadError::Proxy { place, problem }),
        Err(error) => error,
    };
    if options.kubeconfig.is_none() && options.context.is_none() {
        match Config::incluster() {
            Ok(config) => return Ok(config),
            // It is no pod.
            Err(InClusterError::ReadEnvironmentVariable(_)) => {}
            Err(problem) if is_nowhere(&error) => return Err(LoadError::Pod { problem }),
            Err(_) => {}
        }
        if is_nowhere(&error) {
            return Err(LoadError::NoCluster { place });
        }
    }
    Err(LoadError::Unusable {
        problem: match &error {
            kubeconfig::LoadError::Kubeconfig(error) => problem(error, &place),
            error => error.to_string(),
        },
        place,
    })
}

fn from_file(options: &ClusterOptions) -> Result<Config, kubeconfig::LoadError> {
    let kubeconfig = match &options.kubeconfig {
        Some(path) => Kubeconfig::read_from(path)?,
        None => Kubeconfig::read()?,
    };
    kubeconfig::load(kubeconfig, options.context.as_deref())
}

/// Whether none is named, and none is where one would be.
fn is_nowhere(error: &kubeconfig::LoadError) -> bool {
    let is_named = std::env::var_os(VARIABLE).is_some_and(|value| !value.is_empty());
    match error {
        kubeconfig::LoadError::Kubeconfig(KubeconfigError::ReadConfig(error, _)) => {
            !is_named && error.kind() == io::ErrorKind::NotFound
        }
        _ => false,
    }
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
        KubeconfigError::ParseClusterUrl(error) => format!("the server of its cluster is no URL: {error}"),
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

    fn read_fixture(text: Option<&str>, context: Option<&str>) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let options = ClusterOptions {
            kubeconfig: Some(path.clone()),
            context: context.map(str::to_owned),
        };
        let text = load(&options).map_err(|error| error.to_string());
        text.map(drop)
            .map_err(|text| text.replace(path.to_str().unwrap(), "FILE"))
    }

    #[test]
    fn what_is_wrong_is_told_with_the_file_and_a_way_out_and_without_its_content() {
        assert_eq!(read_fixture(Some(CONFIG), None), Ok(()));
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
            (
                Some(&*CONFIG.replace("6443'", "6443', certificate-authority-data: czNjcmV0")),
                None,
                "its certificate-authority holds no certificate in PEM",
            ),
        ] {
            let error = read_fixture(text, context).unwrap_err();
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
