//! The operator's own log: which lines are written, and how.

use anyhow::Context as _;
use mcp_auth_protocol::log::check_levels;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;

/// What the names of all our crates begin with.
const OURS: &str = "mcp_auth";

pub fn start(directives: &str, format: LogFormat) -> anyhow::Result<()> {
    let builder = tracing_subscriber::fmt().with_env_filter(log_filter(directives)?);
    match format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Text => builder.init(),
    }
    Ok(())
}

fn log_filter(directives: &str) -> anyhow::Result<EnvFilter> {
    let what = || {
        format!(
            "--log (MCPAUTH_LOG) {directives:?} is neither a level nor directives such as info,mcp_auth_operator=debug"
        )
    };
    check_levels(directives).with_context(what)?;
    EnvFilter::try_new(with_our_level(directives)).with_context(what)
}

/// The directives with a level alone as that of our own code: the libraries below, such as HTTP/2 and TLS, would fill the log.
/// They are logged from `info` on, or as they are named.
fn with_our_level(directives: &str) -> String {
    let stated = directives.split(',').map(str::trim);
    let parts = stated.filter(|directive| !directive.is_empty()).map(|directive| {
        directive.parse::<LevelFilter>().map_or_else(
            |_| directive.to_owned(),
            |level| format!("{},{OURS}={level}", level.min(LevelFilter::INFO)),
        )
    });
    parts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_misspelt_level_is_an_error_rather_than_silence() {
        for directives in ["verbose", "info,kube", "mcp_auth_operator=loud"] {
            let error = format!("{:#}", log_filter(directives).unwrap_err());
            assert!(error.starts_with("--log (MCPAUTH_LOG)"), "{error}");
        }
        for directives in ["info", "WARN", "off", "info,mcp_auth_operator=debug"] {
            assert!(log_filter(directives).is_ok(), "{directives}");
        }
    }

    #[test]
    fn a_level_alone_is_that_of_our_own_code() {
        for (directives, expected) in [
            ("debug", "info,mcp_auth=debug"),
            ("WARN", "warn,mcp_auth=warn"),
            ("off", "off,mcp_auth=off"),
            ("debug, h2=trace,", "info,mcp_auth=debug,h2=trace"),
            ("mcp_auth_operator=debug", "mcp_auth_operator=debug"),
        ] {
            assert_eq!(with_our_level(directives), expected);
        }
    }

    #[test]
    fn debug_logs_our_crates_and_those_libraries_that_are_named() {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(log_filter("debug,kube=debug").unwrap())
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!(target: "mcp_auth_oauth::client", "ours");
            tracing::debug!(target: "h2::codec", "of a library");
            tracing::debug!(target: "kube::client", "of a library that is named");
            tracing::info!(target: "h2::codec", "worth knowing");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().filter_map(|line| line.rsplit(": ").next()).collect();
        assert_eq!(lines, ["ours", "of a library that is named", "worth knowing"]);
    }
}
