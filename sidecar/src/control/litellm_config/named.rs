//! Names of the user's configuration in a message. The operator keeps 512 bytes of one, whose end is the way out.

/// Names that a message has of one kind.
pub const MAX_NAMED: usize = 3;
/// Longest name that is told whole.
const MAX_NAME_BYTES: usize = 32;

/// The first of them, and how many more there are.
pub fn listed(names: &[&str]) -> String {
    let shown: Vec<_> = names.iter().take(MAX_NAMED).map(|name| shortened(name)).collect();
    let shown = shown.join(", ");
    match names.len().saturating_sub(MAX_NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// With an ellipsis where it is cut.
pub fn shortened(name: &str) -> String {
    match name.len() {
        0..=MAX_NAME_BYTES => name.to_owned(),
        _ => format!(
            "{}…",
            &name[..name.floor_char_boundary(MAX_NAME_BYTES - '…'.len_utf8())]
        ),
    }
}
