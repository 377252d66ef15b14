//! What refusals and warnings say, and what they do not.

use mcp_auth_operator::inject::Decision;

use crate::input::{Input, SECRET};

/// The API server may cut a warning after this.
const MAX_WARNING_BYTES: usize = 256;

#[test]
fn nothing_secret_is_in_a_patch_or_a_message() {
    let (mut inputs, mut patches) = (0, 0);
    for input in Input::all() {
        let decision = input.decide(&input.pod);
        inputs += usize::from(input.pod.to_string().contains(SECRET));
        patches += usize::from(matches!(decision, Decision::Inject { .. }));
        let text = format!("{decision:?}");
        assert!(!text.contains(SECRET), "{}: {text}", input.name);
    }
    assert!(
        inputs > 2 && patches > 20,
        "{inputs} inputs hold a secret, {patches} patches were made"
    );
}

#[test]
fn refusals_and_warnings_are_sentences_that_fit() {
    for input in Input::all() {
        let decision = input.decide(&input.pod);
        let warnings = decision.warnings().iter().map(|warning| warning.message.clone());
        for message in decision
            .error()
            .map(ToString::to_string)
            .into_iter()
            .chain(warnings)
        {
            assert!(
                message.len() <= MAX_WARNING_BYTES,
                "{}: {} bytes",
                input.name,
                message.len()
            );
            assert!(!message.ends_with('.') && !message.contains("  "), "{message}");
        }
    }
}
