//! Exit codes, and the errors that `mcp-auth` ends with. LiteLLM's own exit code is passed on as it is; ours are
//! those of `sysexits.h`, and 126 and 127 as shells have them. The table is in `docs/one-machine.md`.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

use thiserror::Error;

use crate::problem::Unusable;
use crate::settings::SettingsError;
use mcp_auth_oauth::EgressProxyError;
use mcp_auth_protocol::pod::env;
use mcp_auth_sidecar::proxy::otlp::{ClientError, OtlpArgsError};

/// `check` found something that does not hold.
pub const CHECK_FAILED: u8 = 1;
/// The command line, or the command to run, is not understood (`EX_USAGE`).
pub const USAGE: u8 = 64;
/// Something that LiteLLM needs is not to be had, such as the port (`EX_UNAVAILABLE`).
pub const UNAVAILABLE: u8 = 69;
/// The system refuses something that never fails (`EX_OSERR`).
pub const OS_ERROR: u8 = 71;
/// No file can be written (`EX_CANTCREAT`).
pub const CANNOT_CREATE: u8 = 73;
/// A setting, the configuration or the version of LiteLLM is wrong (`EX_CONFIG`).
pub const CONFIG: u8 = 78;
/// The command is there and cannot be run.
pub const NOT_EXECUTABLE: u8 = 126;
/// There is no such command.
pub const NOT_FOUND: u8 = 127;

#[derive(Debug, Error)]
pub enum ExitError {
    #[error(
        "{0}: command not found. Is LiteLLM installed in this environment, and does PATH name its folder?"
    )]
    NotFound(String),
    #[error("{0} cannot be run: {1}")]
    NotExecutable(String, io::ErrorKind),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Servers(#[from] Unusable),
    #[error("{address} cannot be listened on: {kind}. {} with --port or --host of LiteLLM", way_out(*.kind))]
    Listen {
        address: SocketAddr,
        kind: io::ErrorKind,
    },
    #[error("--host {0:?} is no address of this machine: give an IP address, such as 0.0.0.0, or localhost")]
    Host(String),
    #[error("--port {0:?} is no port: give a number from 1 to 65535")]
    Port(String),
    #[error(
        "{program} takes its address by --bind, of which a second one adds another: use litellm --run_{program}, or \
         uvicorn litellm.proxy.proxy_server:app"
    )]
    ServerArguments { program: &'static str },
    #[error(
        "{what} has LiteLLM listen on a socket of its own, which cannot be moved: use --host and --port, or run \
         LiteLLM without mcp-auth by LITELLM_MCP_AUTH_AUTO_PATCH=false"
    )]
    OwnSocket { what: String },
    #[error(
        "the shell's script may name LiteLLM's configuration, unseen: name it by the variable CONFIG_FILE_PATH, which beats \
         LiteLLM's --config, or start litellm without a shell"
    )]
    ConfigInScript,
    #[error(
        "the file of --env-file may name LiteLLM's configuration, unseen: name it by --config of litellm, or by the \
         variable CONFIG_FILE_PATH for uvicorn and granian"
    )]
    HiddenConfig,
    #[error(
        "{what} makes LiteLLM serve TLS, which mcp-auth does not speak to it: end TLS before mcp-auth, or run LiteLLM \
         without mcp-auth by LITELLM_MCP_AUTH_AUTO_PATCH=false"
    )]
    LitellmTls { what: String },
    #[error(
        "LITELLM_CONFIG_BUCKET_NAME makes LiteLLM read its configuration from a bucket and ignore every file: unset it, \
         and give the configuration as a file by --config"
    )]
    ConfigInBucket,
    #[error(transparent)]
    Proxy(#[from] EgressProxyError),
    #[error("no loopback port is free for LiteLLM between {first} and {last}")]
    NoLoopbackPort { first: u16, last: u16 },
    #[error(
        "no file can be written below {folder}: {kind}. Set TMPDIR to a folder that can be written to; nothing else is \
         written"
    )]
    Folder { folder: PathBuf, kind: io::ErrorKind },
    #[error("{file} cannot be written: {kind}. Check --litellm-log")]
    LitellmLog { file: PathBuf, kind: io::ErrorKind },
    #[error("{file} cannot be written: {kind}. Check --audit-log")]
    AuditLog { file: PathBuf, kind: io::ErrorKind },
    #[error(transparent)]
    Otlp(#[from] OtlpArgsError),
    #[error("--otlp-ca ({variable}) or --otlp-endpoint: {0}", variable = env::OTLP_CA)]
    Collector(#[from] ClientError),
    #[error("{address} cannot be listened on for the metrics: {kind}. {}, or leave --metrics out", way_out(*.kind))]
    Metrics {
        address: SocketAddr,
        kind: io::ErrorKind,
    },
    #[error(
        "MCPAUTH_LOG is neither a level nor directives: write it as info (off, error, warn, info, debug or trace), or \
         as mcp_auth_local=debug,info"
    )]
    Log,
    #[error("{what}: {kind}")]
    System { what: &'static str, kind: io::ErrorKind },
    #[error(
        "this is LiteLLM {found}, and mcp-auth needs {needed} or newer: older ones do not pass the user's context on. \
         LiteLLM was ended; LITELLM_MCP_AUTH_AUTO_PATCH=false runs it without mcp-auth"
    )]
    OldLitellm { found: String, needed: &'static str },
}

impl ExitError {
    pub fn code(&self) -> u8 {
        match self {
            Self::NotFound(_) => NOT_FOUND,
            Self::NotExecutable(..) => NOT_EXECUTABLE,
            Self::Settings(_)
            | Self::Servers(_)
            | Self::Proxy(_)
            | Self::Otlp(_)
            | Self::Collector(_)
            | Self::ConfigInBucket
            | Self::Log
            | Self::LitellmTls { .. }
            | Self::OldLitellm { .. } => CONFIG,
            Self::Host(_)
            | Self::Port(_)
            | Self::ServerArguments { .. }
            | Self::OwnSocket { .. }
            | Self::ConfigInScript
            | Self::HiddenConfig => USAGE,
            Self::Listen { .. } | Self::NoLoopbackPort { .. } | Self::Metrics { .. } => UNAVAILABLE,
            Self::Folder { .. } | Self::LitellmLog { .. } | Self::AuditLog { .. } => CANNOT_CREATE,
            Self::System { .. } => OS_ERROR,
        }
    }

    /// Why this program did not start.
    pub fn from_start(program: &OsStr, error: &io::Error) -> Self {
        let program = program.to_string_lossy().into_owned();
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound(program),
            kind => Self::NotExecutable(program, kind),
        }
    }
}

fn way_out(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::AddrNotAvailable => {
            "The address is none of this machine's, or IPv6 is off here: choose another, such as 0.0.0.0,"
        }
        io::ErrorKind::PermissionDenied => "Ports below 1024 may need rights: choose another",
        _ => "Is another program, such as another `mcp-auth exec`, there? Choose another",
    }
}

/// Says why, on one line, and answers the exit code.
pub fn report(error: &ExitError) -> u8 {
    // Without standard error nobody reads it.
    let _ = writeln!(io::stderr(), "mcp-auth: {error}");
    error.code()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_lists_every_code_and_no_other() {
        let page = include_str!("../../docs/one-machine.md");
        let (_, table) = page.split_once("| exit code | meaning |").unwrap();
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        // The first row is LiteLLM's own.
        let codes = rows
            .skip(1)
            .flat_map(|row| row.split('|').nth(1).unwrap().split(','));
        let codes: Vec<u8> = codes.map(|code| code.trim().parse().unwrap()).collect();
        let all = [
            CHECK_FAILED,
            USAGE,
            UNAVAILABLE,
            OS_ERROR,
            CANNOT_CREATE,
            CONFIG,
            NOT_EXECUTABLE,
            NOT_FOUND,
        ];
        assert_eq!(codes, all);
    }
}
