//! Version skew: which sidecars this operator still serves. Supported is one minor version either way.

use crate::sidecars::Sidecar;

/// What a sidecar reports that understands too little of its snapshot.
const TOO_OLD: &str = "SidecarTooOld";

/// Whether a sidecar is older than is supported, by its version or by its own word.
pub fn is_too_old(sidecar: &Sidecar) -> bool {
    is_beyond(&sidecar.version, env!("CARGO_PKG_VERSION"))
        || sidecar.problems.iter().any(|problem| problem.reason == TOO_OLD)
}

/// Whether a version is older than the minor version before the operator's. One that cannot be read is not.
fn is_beyond(version: &str, operator: &str) -> bool {
    match (major_and_minor(version), major_and_minor(operator)) {
        (Some((major, minor)), Some((operator_major, operator_minor))) => {
            major < operator_major || (major == operator_major && minor + 1 < operator_minor)
        }
        _ => false,
    }
}

fn major_and_minor(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_minor_version_either_way_is_served_and_what_is_older_is_too_old() {
        for (version, operator, expected) in [
            ("0.3.0", "0.3.9", false),
            ("0.2.7", "0.3.0", false),
            ("0.4.0", "0.3.0", false),
            ("0.1.9", "0.3.0", true),
            ("0.9.0", "1.0.0", true),
            ("1.0.0", "1.0.0", false),
            ("", "1.0.0", false),
            ("test", "1.0.0", false),
            ("18446744073709551616.0", "1.0.0", false),
        ] {
            assert_eq!(is_beyond(version, operator), expected, "{version} {operator}");
        }
    }
}
