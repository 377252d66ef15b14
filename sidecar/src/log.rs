//! What is logged, by a level or by directives. A level alone is ours: the libraries below would fill the log
//! with each frame and handshake.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{ParseError, Targets};

/// What the targets of all crates of this project begin with.
const OURS: &str = "mcp_auth";

/// The filter by `directives` (`debug`, `info,h2=trace`), and what is wrong with them if they are not used.
/// Nothing means `info`. Targets and levels are all that is documented, and need none of the regular expressions
/// of an `EnvFilter`.
pub fn log_filter(directives: &str) -> (Targets, Option<ParseError>) {
    let (stated, error) = match directives.trim() {
        "" => (Targets::new().with_default(LevelFilter::INFO), None),
        directives => match directives.parse() {
            Ok(stated) => (stated, None),
            Err(error) => (Targets::new().with_default(LevelFilter::INFO), Some(error)),
        },
    };
    let Some(level) = stated.default_level() else {
        return (stated, error);
    };
    let filter = Targets::new()
        .with_default(level.min(LevelFilter::INFO))
        .with_target(OURS, level)
        // The more specific ones, and those about us, count more.
        .with_targets(stated);
    (filter, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    fn enables(directives: &str, target: &str, level: Level) -> bool {
        log_filter(directives).0.would_enable(target, &level)
    }

    #[test]
    fn a_level_alone_is_that_of_our_own_code() {
        assert!(enables("debug", "mcp_auth_sidecar::proxy", Level::DEBUG));
        assert!(!enables("debug", "rustls::client", Level::DEBUG));
        assert!(enables("debug", "h2::codec", Level::INFO));
        assert!(enables("", "mcp_auth_sidecar", Level::INFO));
        assert!(!enables("", "mcp_auth_sidecar", Level::DEBUG));
        assert!(!enables("error", "mcp_auth_sidecar", Level::WARN));
        assert!(!enables("error", "h2", Level::WARN));
    }

    #[test]
    fn a_library_is_logged_where_it_is_named() {
        assert!(enables("info,h2=trace", "h2::codec", Level::TRACE));
        assert!(!enables("info,h2=trace", "mcp_auth_sidecar", Level::DEBUG));
        assert!(enables(
            "info,mcp_auth_sidecar=debug",
            "mcp_auth_sidecar",
            Level::DEBUG
        ));
        assert!(!enables("mcp_auth_sidecar=debug", "h2", Level::ERROR));
    }

    #[test]
    fn what_is_no_level_is_said_and_info_is_logged() {
        let (filter, error) = log_filter("mcp_auth=loud");
        assert!(error.is_some());
        assert!(filter.would_enable("mcp_auth_sidecar", &Level::INFO));
    }
}
