//! Options of LiteLLM's command line that are configuration. It passes them to its workers in WORKER_CONFIG,
//! which LiteLLM ignores as soon as CONFIG_FILE_PATH is set: a wrapper in that variable would drop them.

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

/// The first option among LiteLLM's words that is configuration, without its value.
pub(super) fn configuration_option(words: &[Option<String>]) -> Option<&'static str> {
    let name = |word: &String| word.split('=').next().unwrap_or_default().to_owned();
    words
        .iter()
        .flatten()
        .find_map(|word| CONFIGURATION.into_iter().find(|option| *option == name(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_are_configuration_are_told_from_those_of_the_server() {
        let find = |line: &str| {
            let words: Vec<_> = line.split(' ').map(|word| Some(word.to_owned())).collect();
            configuration_option(&words)
        };
        assert_eq!(find("--port 4000 --model openai/gpt-4o"), Some("--model"));
        assert_eq!(find("--config /c.yaml --drop_params"), Some("--drop_params"));
        assert_eq!(find("--max_budget=100"), Some("--max_budget"));
        assert_eq!(
            find("proxy --config /c.yaml --port 4000 --num_workers 4 --run_gunicorn"),
            None
        );
        assert_eq!(find("--models x"), None);
    }
}
