//! The command that starts LiteLLM: what it says of address and configuration, and how it is run instead, on
//! loopback and with the wrapper configuration.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::exit::ExitError;
use crate::settings::Variables;

const DEFAULT_PORT: u16 = 4000;
const PROXIES: [&str; 6] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
];
/// Words that start LiteLLM's server with the options behind them.
const LITELLM: [&str; 3] = [
    "litellm",
    "litellm.proxy.proxy_cli",
    "litellm.proxy.proxy_server:app",
];
/// Servers that take their address by `--bind`.
const BIND_SERVERS: [&str; 2] = ["gunicorn", "hypercorn"];
/// Servers that listen on a Unix socket, or on one that they inherit, rather than where `--host` and `--port` say.
const SOCKET_SERVERS: [&str; 2] = ["uvicorn", "granian"];
const SOCKET_OPTIONS: [&str; 2] = ["--uds", "--fd"];
/// The same as variables, which those servers read whatever their options.
const SOCKET_VARIABLES: [(&str, &str); 3] = [
    ("uvicorn", "UVICORN_UDS"),
    ("uvicorn", "UVICORN_FD"),
    ("granian", "GRANIAN_UDS"),
];
/// Of uvicorn, granian (`--env-files` too) and what starts LiteLLM, such as `uv run`: variables that are not seen here.
const ENVIRONMENT_FILE: &str = "--env-file";
const CONFIG_BUCKET: &str = "LITELLM_CONFIG_BUCKET_NAME";
const TLS_VARIABLES: [&str; 2] = ["SSL_KEYFILE_PATH", "SSL_CERTFILE_PATH"];
const SCRIPT: &str = "litellm/proxy/proxy_cli.py";

/// What the command and the environment say.
#[derive(Clone, Debug, PartialEq)]
pub struct LitellmCommand {
    words: Vec<OsString>,
    /// Where LiteLLM's users call it.
    pub listen: SocketAddr,
    /// LiteLLM's own configuration; absent where it has none.
    pub config: Option<PathBuf>,
    /// Options behind the last word reach LiteLLM.
    takes_options: bool,
}

/// How LiteLLM is run instead.
#[derive(Debug, Default, PartialEq)]
pub struct Launch {
    pub words: Vec<OsString>,
    pub set: Vec<(String, OsString)>,
    pub remove: Vec<String>,
}

impl LitellmCommand {
    pub fn read(words: Vec<OsString>, variables: &Variables) -> Result<Self, ExitError> {
        let starts_litellm = |word: &OsString| {
            LITELLM.contains(&&*file_name(word)) || word.to_string_lossy().ends_with(SCRIPT)
        };
        let takes_options = words.iter().any(starts_litellm);
        check_can_move(&words, takes_options, variables)?;
        let option = |names: &[&str], variable: &str| {
            option(&words, names).or_else(|| variables.get(variable).map(str::to_owned))
        };
        let port = match option(&["--port"], "PORT") {
            None => DEFAULT_PORT,
            Some(text) => text
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or(ExitError::Port(text))?,
        };
        let host = match option(&["--host"], "HOST").as_deref() {
            None => Ipv4Addr::UNSPECIFIED.into(),
            Some("localhost") => Ipv4Addr::LOCALHOST.into(),
            Some(text) => text
                .parse::<IpAddr>()
                .map_err(|_| ExitError::Host(text.to_owned()))?,
        };
        // CONFIG_FILE_PATH beats --config in LiteLLM.
        let config = variables.get("CONFIG_FILE_PATH").map(str::to_owned);
        // `-c` is what a shell calls its script, and uv its constraints; of LiteLLM's it is behind the word that starts LiteLLM.
        let behind = words
            .iter()
            .rposition(starts_litellm)
            .map_or(&[][..], |at| &words[at..]);
        let config = config
            .or_else(|| self::option(behind, &["--config", "-c"]))
            .or_else(|| self::option(&words, &["--config"]))
            .map(PathBuf::from);
        let config = config.map(|path| std::path::absolute(&path).unwrap_or(path));
        let names_config = |word: &OsString| {
            let text = word.to_string_lossy();
            text.contains(' ') && text.contains("--config")
        };
        if config.is_none() && words.iter().any(names_config) {
            return Err(ExitError::ConfigInScript);
        }
        let reads_file = |word: &OsString| word.to_string_lossy().starts_with(ENVIRONMENT_FILE);
        if config.is_none() && words.iter().any(reads_file) {
            return Err(ExitError::HiddenConfig);
        }
        Ok(Self {
            takes_options,
            listen: SocketAddr::new(host, port),
            config,
            words,
        })
    }

    /// Whether the command is seen to start LiteLLM, so that it takes options; a script may heed the variables.
    pub fn takes_options(&self) -> bool {
        self.takes_options
    }

    /// LiteLLM on this loopback port, with `wrapper` as its configuration. It sees neither our own variables nor
    /// `secrets`.
    pub fn launch(
        &self,
        port: u16,
        wrapper: &Path,
        variables: &Variables,
        secrets: &BTreeSet<String>,
    ) -> Launch {
        let mut words = self.words.clone();
        let port = port.to_string();
        if self.takes_options {
            // The last of several counts.
            words.extend(["--host", "127.0.0.1", "--port", &port].map(OsString::from));
        }
        let mut set = vec![
            ("HOST".to_owned(), "127.0.0.1".into()),
            ("PORT".to_owned(), port.into()),
            ("CONFIG_FILE_PATH".to_owned(), wrapper.as_os_str().to_owned()),
        ];
        if PROXIES.iter().any(|name| variables.get(name).is_some()) {
            let stated = variables.get("NO_PROXY").or(variables.get("no_proxy"));
            let loopback = "127.0.0.1,localhost";
            let value: OsString = match stated {
                Some(stated) => format!("{stated},{loopback}").into(),
                None => loopback.into(),
            };
            set.extend(["NO_PROXY", "no_proxy"].map(|name| (name.to_owned(), value.clone())));
        }
        Launch {
            words,
            set,
            remove: variables
                .own_names()
                .chain(secrets.iter().map(String::as_str))
                .map(str::to_owned)
                .collect(),
        }
    }
}

/// Checks that LiteLLM can be moved to loopback, that plain HTTP is spoken there, and that it reads files: the
/// set-ups that injection refuses on Kubernetes.
fn check_can_move(words: &[OsString], takes_options: bool, variables: &Variables) -> Result<(), ExitError> {
    // LiteLLM looks whether it is there, and takes the empty text too.
    if variables.is_set(CONFIG_BUCKET) {
        return Err(ExitError::ConfigInBucket);
    }
    let is_server = |program: &&str| words.iter().any(|word| file_name(word) == *program);
    if takes_options && let Some(program) = BIND_SERVERS.into_iter().find(is_server) {
        return Err(ExitError::ServerArguments { program });
    }
    let servers = SOCKET_SERVERS.into_iter().filter(is_server);
    let servers: Vec<&str> = servers.filter(|_| takes_options).collect();
    if let Some(what) = own_socket(words, &servers, variables) {
        return Err(ExitError::OwnSocket { what });
    }
    let variable = TLS_VARIABLES
        .into_iter()
        .find(|name| variables.get(name).is_some());
    let variable = variable.map(|name| format!("the variable {name}"));
    let what = variable.or_else(|| {
        let words = words.iter().map(|word| word.to_string_lossy());
        let mut tls = words.filter(|word| word.starts_with("--ssl_") || word.starts_with("--ssl-"));
        let option = tls.next()?;
        Some(format!(
            "the option {}",
            option.split('=').next().unwrap_or_default()
        ))
    });
    match what {
        Some(what) => Err(ExitError::LitellmTls { what }),
        None => Ok(()),
    }
}

/// What has one of these servers, which start LiteLLM, listen on a socket of its own.
fn own_socket(words: &[OsString], servers: &[&str], variables: &Variables) -> Option<String> {
    if servers.is_empty() {
        return None;
    }
    let mut names = words.iter().map(|word| word.to_string_lossy());
    let option = names.find_map(|word| {
        let name = word.split('=').next().unwrap_or_default();
        SOCKET_OPTIONS.into_iter().find(|option| *option == name)
    });
    let is_used = |(server, name): &(&str, &str)| servers.contains(server) && variables.get(name).is_some();
    let variable = || SOCKET_VARIABLES.into_iter().find(is_used);
    option
        .map(|option| format!("the option {option}"))
        .or_else(|| variable().map(|(_, name)| format!("the variable {name}")))
}

fn file_name(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    word.rsplit('/').next().unwrap_or_default().to_owned()
}

/// Content of the wrapper where LiteLLM has no configuration of its own. A JSON string, which YAML 1.1 reads whatever a path
/// holds.
pub fn wrapper_of_overlay(overlay: &Path) -> String {
    format!("include: {}\n", serde_json::json!([overlay.to_string_lossy()]))
}

/// Finds the program as a shell would, so that a wrong name is told before anything has begun.
pub fn find_program(program: &OsStr, path: Option<&OsStr>) -> Result<(), ExitError> {
    let name = || program.to_string_lossy().into_owned();
    let candidates: Vec<PathBuf> = match program.as_encoded_bytes().contains(&b'/') {
        true => vec![PathBuf::from(program)],
        false => std::env::split_paths(path.unwrap_or_default())
            .map(|folder| folder.join(program))
            .collect(),
    };
    let files = candidates
        .iter()
        .filter_map(|candidate| std::fs::metadata(candidate).ok());
    let modes: Vec<u32> = files
        .filter(|file| file.is_file())
        .map(|file| file.permissions().mode())
        .collect();
    match modes.iter().any(|mode| mode & 0o111 != 0) {
        true => Ok(()),
        false if modes.is_empty() => Err(ExitError::NotFound(name())),
        false => Err(ExitError::NotExecutable(
            name(),
            std::io::ErrorKind::PermissionDenied,
        )),
    }
}

/// Value of the last of these options.
fn option(words: &[OsString], names: &[&str]) -> Option<String> {
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let mut value = None;
    for (index, word) in words.iter().enumerate() {
        if names.contains(&&**word) {
            value = words.get(index + 1).map(|next| next.to_string()).or(value);
        } else if let Some((name, inline)) = word.split_once('=')
            && name.starts_with("--")
            && names.contains(&name)
        {
            value = Some(inline.to_owned());
        }
    }
    value
}

#[cfg(test)]
mod tests;
