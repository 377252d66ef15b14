//! Options of LiteLLM's command line that are configuration. It passes them to its workers in WORKER_CONFIG,
//! which LiteLLM ignores as soon as CONFIG_FILE_PATH is set: a wrapper in that variable would drop them.

use super::command_line::attached_value;
use super::environment::Environment;

/// The variable that LiteLLM takes its configuration's path from.
pub(super) const CONFIG_FILE_PATH: &str = "CONFIG_FILE_PATH";

/// Every option that the command line puts into WORKER_CONFIG, but for the path of the file.
const CONFIGURATION: [&str; 17] = [
    "--model",
    "-m",
    "--alias",
    "--api_base",
    "--api_version",
    "--headers",
    "--save",
    "--debug",
    "--detailed_debug",
    "--temperature",
    "--max_tokens",
    "--request_timeout",
    "--max_budget",
    "--drop_params",
    "--add_function_to_prompt",
    "--use_queue",
    "--telemetry",
];

/// Variables that the command line takes for such options.
const CONFIGURATION_VARIABLES: [&str; 2] = ["DEBUG", "DETAILED_DEBUG"];

/// Options of the command line that take the next word as their value. Of one that is not listed the next word may be an
/// option too.
const WITH_VALUE: [&str; 22] = [
    "--config",
    "-c",
    "--host",
    "--port",
    "--num_workers",
    "--model",
    "-m",
    "--alias",
    "--api_base",
    "--api_version",
    "--headers",
    "--temperature",
    "--max_tokens",
    "--request_timeout",
    "--max_budget",
    "--log_config",
    "--keepalive_timeout",
    "--max_requests_before_restart",
    "--limit_concurrency",
    "--granian_threads",
    "--ssl_keyfile_path",
    "--ssl_certfile_path",
];

/// Whether a word that the pod does not show may hold options: one that is no option's value, such as `$ARGS` in a script.
pub(super) fn may_hide_options(words: &[Option<String>]) -> bool {
    let takes_next = |word: &Option<String>| word.as_deref().is_some_and(|word| WITH_VALUE.contains(&word));
    let is_value = |index: usize| index > 0 && takes_next(&words[index - 1]);
    (0..words.len()).any(|index| words[index].is_none() && !is_value(index))
}

/// The first option among LiteLLM's words that is configuration, without its value.
pub(super) fn configuration_option(words: &[Option<String>]) -> Option<&'static str> {
    let names = |word: &str, option: &str| {
        word.split('=').next() == Some(option) || attached_value(word, option).is_some()
    };
    words
        .iter()
        .flatten()
        .find_map(|word| CONFIGURATION.into_iter().find(|option| names(word, option)))
}

/// Whether the environment states such an option.
pub(super) fn states_configuration(environment: &Environment) -> bool {
    CONFIGURATION_VARIABLES
        .iter()
        .any(|name| environment.is_set(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_not_shown_may_hold_options_unless_it_is_the_value_of_one() {
        let hides = |line: &str| {
            let word = |word: &str| (!word.starts_with('$')).then(|| word.to_owned());
            may_hide_options(&line.split(' ').map(word).collect::<Vec<_>>())
        };
        assert!(hides("litellm $ARGS"));
        assert!(hides("$ARGS"), "the first argument of an image");
        assert!(hides("litellm --port 4000 $ARGS"));
        assert!(hides("litellm --detailed_debug $ARGS"));
        assert!(hides("litellm --port $PORT $ARGS"));
        assert!(!hides("litellm --port $PORT --config $CONFIG --num_workers $N"));
        assert!(!hides("litellm --config /c.yaml"));
    }

    #[test]
    fn options_that_are_configuration_are_told_from_those_of_the_server() {
        let find = |line: &str| {
            let words: Vec<_> = line.split(' ').map(|word| Some(word.to_owned())).collect();
            configuration_option(&words)
        };
        assert_eq!(find("--port 4000 --model openai/gpt-4o"), Some("--model"));
        assert_eq!(find("--config /c.yaml --drop_params"), Some("--drop_params"));
        assert_eq!(find("--max_budget=100"), Some("--max_budget"));
        assert_eq!(find("-mopenai/gpt-4o"), Some("-m"));
        assert_eq!(
            find("proxy --config /c.yaml --port 4000 --num_workers 4 --run_gunicorn"),
            None
        );
        assert_eq!(find("--models x"), None);
    }
}
