//! Shell scripts of containers: the simple commands in one, as far as text alone tells them. It serves two
//! questions: whether a command of the script is LiteLLM, and where in the text its arguments end.

/// A simple command of a script.
#[derive(Debug, PartialEq)]
pub(super) struct SimpleCommand {
    /// Its words without assignments before them; `None` where the shell expands something.
    pub words: Vec<Option<String>>,
    /// Byte position in the script behind the last of its words.
    pub end: usize,
    /// Its last word is `"$@"`: it gets the arguments of the script.
    pub passes_arguments: bool,
}

/// Words after which another command begins.
const RESERVED: [&str; 13] = [
    "if", "then", "elif", "else", "while", "until", "do", "{", "}", "!", "fi", "done", "esac",
];
/// Words of the shell that run the words after them.
const PREFIXES: [&str; 3] = ["exec", "command", "time"];

/// The simple commands of a script, in their order. Compound commands are not told apart: what counts is which
/// word stands where a command begins.
pub(super) fn simple_commands(script: &str) -> Vec<SimpleCommand> {
    expanded_commands(script, &|_| None)
}

/// The same, with the values of the variables that are known.
pub(super) fn expanded_commands(
    script: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Vec<SimpleCommand> {
    let mut commands = Vec::new();
    let mut current: Vec<Word> = Vec::new();
    let tokens = Tokens {
        variable,
        ..Tokens::new(script)
    };
    for token in tokens {
        match token {
            Token::Word(word) => current.push(word),
            Token::Output(_) => {}
            Token::Separator => commands.extend(command(std::mem::take(&mut current))),
        }
    }
    commands.extend(command(current));
    commands
}

/// Whether the script does nothing with a variable but expand it, as far as text alone tells: it neither sets it nor runs
/// something within the same shell that may.
pub(super) fn only_expands(script: &str, name: &str) -> bool {
    let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let is_expanded = |at: usize| {
        let (before, after) = (&script[..at], &script[at + name.len()..]);
        let is_whole = !before.ends_with(is_of_name) && !after.starts_with(is_of_name);
        !is_whole || before.ends_with('$') || before.ends_with("${") && after.starts_with('}')
    };
    let runs_other = |command: &SimpleCommand| {
        let first = command.words.first().and_then(Option::as_deref);
        matches!(first, Some("." | "source" | "eval"))
    };
    script.match_indices(name).all(|(at, _)| is_expanded(at))
        && !simple_commands(script).iter().any(runs_other)
}

/// Where the output of the script's commands goes, as far as it is known.
pub(super) fn outputs(script: &str) -> Vec<String> {
    let output = |token| match token {
        Token::Output(word) => word.text,
        Token::Word(_) | Token::Separator => None,
    };
    Tokens::new(script).filter_map(output).collect()
}

/// The words of each command of a script as they are written, from the first that is none of the shell's own.
pub(super) fn written_commands(script: &str) -> Vec<Vec<&str>> {
    let mut commands = vec![Vec::new()];
    for token in Tokens::new(script) {
        match (token, commands.last_mut()) {
            (Token::Word(word), Some(words)) => {
                let written = &script[word.begin..word.end];
                if !words.is_empty() || !is_of_the_shell(written) {
                    words.push(written);
                }
            }
            (Token::Separator, _) => commands.push(Vec::new()),
            _ => {}
        }
    }
    commands
}

fn is_of_the_shell(word: &str) -> bool {
    RESERVED.contains(&word) || PREFIXES.contains(&word)
}

fn command(words: Vec<Word>) -> Option<SimpleCommand> {
    let leads = |word: &Word| {
        let text = word.text.as_deref();
        text.is_some_and(is_of_the_shell) || word.assigns
    };
    let words: Vec<Word> = words.into_iter().skip_while(leads).collect();
    let last = words.last()?;
    let (end, passes_arguments) = (last.end, last.is_all_arguments);
    let mut words: Vec<Option<String>> = words.into_iter().map(|word| word.text).collect();
    if passes_arguments {
        words.pop();
    }
    Some(SimpleCommand {
        words,
        end,
        passes_arguments,
    })
}

struct Word {
    text: Option<String>,
    begin: usize,
    end: usize,
    assigns: bool,
    is_all_arguments: bool,
}

enum Token {
    Word(Word),
    /// Where a command's output goes instead.
    Output(Word),
    /// Ends a command.
    Separator,
}

struct Tokens<'a> {
    script: &'a str,
    at: usize,
    variable: &'a dyn Fn(&str) -> Option<String>,
}

impl<'a> Tokens<'a> {
    fn new(script: &'a str) -> Self {
        Self {
            script,
            at: 0,
            variable: &|_| None,
        }
    }

    fn rest(&self) -> &'a str {
        &self.script[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let letter = self.peek()?;
        self.at += letter.len_utf8();
        Some(letter)
    }

    /// Skips what stands between this opening and its closing letter, both included.
    fn skip_nested(&mut self, open: char, close: char) {
        let mut depth = 0_usize;
        while let Some(letter) = self.take() {
            if letter == '\\' {
                self.take();
            } else if letter == open {
                depth += 1;
            } else if letter == close {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return;
                }
            }
        }
    }

    /// What `$` or a backtick begins. The text it stands for is not known.
    fn skip_expansion(&mut self) {
        match self.take() {
            Some('`') => while self.take().is_some_and(|letter| letter != '`') {},
            _ => match self.peek() {
                Some('(') => self.skip_nested('(', ')'),
                Some('{') => self.skip_nested('{', '}'),
                Some(letter) if letter.is_alphanumeric() || letter == '_' => {
                    while self
                        .peek()
                        .is_some_and(|letter| letter.is_alphanumeric() || letter == '_')
                    {
                        self.take();
                    }
                }
                Some('@' | '*' | '#' | '?' | '!' | '-' | '$') => {
                    self.take();
                }
                _ => {}
            },
        }
    }

    /// The value of the variable that `$` begins, where it is known.
    fn expansion(&mut self) -> Option<String> {
        let begin = self.at;
        self.skip_expansion();
        let name = self.script[begin..self.at].strip_prefix('$')?;
        let name = match name.strip_prefix('{') {
            Some(braced) => braced.strip_suffix('}')?,
            None => name,
        };
        let is_name = name
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
        (self.variable)(name).filter(|_| is_name)
    }

    fn word(&mut self) -> Word {
        let begin = self.at;
        let mut text = String::new();
        let mut is_literal = true;
        while let Some(letter) = self.peek() {
            match letter {
                _ if ends_word(letter) => break,
                '\\' => {
                    self.take();
                    match self.take() {
                        // A line that goes on.
                        Some('\n') | None => {}
                        Some(escaped) => text.push(escaped),
                    }
                }
                '\'' => {
                    self.take();
                    while let Some(letter) = self.take().filter(|letter| *letter != '\'') {
                        text.push(letter);
                    }
                }
                '"' => {
                    self.take();
                    while let Some(letter) = self.peek() {
                        match letter {
                            '"' => {
                                self.take();
                                break;
                            }
                            '\\' => {
                                self.take();
                                text.extend(self.take());
                            }
                            '$' | '`' => match self.expansion() {
                                Some(value) => text.push_str(&value),
                                None => is_literal = false,
                            },
                            _ => text.extend(self.take()),
                        }
                    }
                }
                '$' | '`' => match self.expansion().filter(|value| is_one_word(value)) {
                    Some(value) => text.push_str(&value),
                    None => is_literal = false,
                },
                // A pattern, or somebody's home.
                '*' | '?' => {
                    is_literal = false;
                    self.take();
                }
                '~' if self.at == begin || self.script[begin..self.at].ends_with('=') => {
                    is_literal = false;
                    self.take();
                }
                _ => text.extend(self.take()),
            }
        }
        let raw = &self.script[begin..self.at];
        let assigns = raw.split_once('=').is_some_and(|(name, _)| {
            !name.is_empty()
                && !name.starts_with(|letter: char| letter.is_ascii_digit())
                && name
                    .chars()
                    .all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
        });
        Word {
            text: is_literal.then_some(text),
            begin,
            end: self.at,
            assigns,
            is_all_arguments: matches!(raw, "\"$@\"" | "$@" | "\"${@}\"" | "${@}"),
        }
    }

    /// A redirection has a target, which is no argument.
    fn redirection(&mut self) -> Option<Token> {
        let is_output = !self.rest().starts_with('<');
        while self
            .peek()
            .is_some_and(|letter| matches!(letter, '<' | '>' | '&' | '|' | '-'))
        {
            self.take();
        }
        while self.peek().is_some_and(|letter| matches!(letter, ' ' | '\t')) {
            self.take();
        }
        let target = self.word();
        is_output.then_some(Token::Output(target))
    }
}

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        loop {
            match self.peek()? {
                ' ' | '\t' | '\r' => drop(self.take()),
                // A line that goes on.
                '\\' if self.rest().starts_with("\\\n") => self.at += "\\\n".len(),
                '#' => {
                    while self.peek().is_some_and(|letter| letter != '\n') {
                        self.take();
                    }
                }
                '<' | '>' => {
                    if let Some(output) = self.redirection() {
                        return Some(output);
                    }
                }
                '&' if self.rest().starts_with("&>") => return self.redirection(),
                '\n' | ';' | '&' | '|' | '(' | ')' => {
                    self.take();
                    return Some(Token::Separator);
                }
                _ => {
                    let word = self.word();
                    let is_number = word.text.as_ref().is_some_and(|text| {
                        !text.is_empty() && text.chars().all(|letter| letter.is_ascii_digit())
                    });
                    // The number of a stream that is redirected, as in `2>&1`.
                    if is_number && matches!(self.peek(), Some('<' | '>')) {
                        continue;
                    }
                    return Some(Token::Word(word));
                }
            }
        }
    }
}

/// Whether the shell makes nothing else of the value where it stands without quotes.
fn is_one_word(value: &str) -> bool {
    !value.is_empty() && !value.contains(|letter: char| letter.is_whitespace() || "*?[\\".contains(letter))
}

fn ends_word(letter: char) -> bool {
    letter.is_whitespace() || ";&|()<>".contains(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The commands of a script, `?` for what is expanded.
    fn commands(script: &str) -> Vec<String> {
        let text = |command: SimpleCommand| {
            let words: Vec<String> = command
                .words
                .into_iter()
                .map(|word| word.unwrap_or_else(|| "?".to_owned()))
                .collect();
            words.join(" ")
        };
        simple_commands(script).into_iter().map(text).collect()
    }

    #[test]
    fn commands_are_told_apart_by_what_stands_between_them() {
        for (script, expected) in [
            ("exec litellm --port 4000", vec!["litellm --port 4000"]),
            (
                "source /vault/secrets/config && litellm --config /app/c.yaml",
                vec!["source /vault/secrets/config", "litellm --config /app/c.yaml"],
            ),
            (
                "until nc -z localhost 4000; do echo waiting for litellm ; sleep 1; done; exec node server.js",
                vec![
                    "nc -z localhost 4000",
                    "echo waiting for litellm",
                    "sleep 1",
                    "node server.js",
                ],
            ),
            (
                "export A=$(cat /a; echo b); A=1 B=\"$C d\" litellm --model 'a b' \"$X\"",
                vec!["export ?", "litellm --model a b ?"],
            ),
            ("litellm 2>&1 | tee /log", vec!["litellm", "tee /log"]),
            (
                "litellm > /log 2>/err --port 1 &\nwait",
                vec!["litellm --port 1", "wait"],
            ),
            ("# litellm\nrun # litellm", vec!["run"]),
            ("if test -f x; then litellm; fi", vec!["test -f x", "litellm"]),
            ("litellm \\\n  --port 4000", vec!["litellm --port 4000"]),
            ("(cd /app; litellm)", vec!["cd /app", "litellm"]),
            ("set -e\n\nlitellm\n", vec!["set -e", "litellm"]),
            (
                "litellm --config ~/c.yaml --x='~' a~b *.yaml '*' [ -f ]",
                vec!["litellm --config ? --x=~ a~b ? * [ -f ]"],
            ),
            ("'unfinished", vec!["unfinished"]),
            ("$(", vec!["?"]),
            ("", vec![]),
        ] {
            assert_eq!(commands(script), expected, "{script}");
        }
    }

    #[test]
    fn text_can_be_put_behind_the_last_argument_of_a_command() {
        for (script, expected) in [
            ("litellm --port 1", "litellm --port 1 X"),
            ("a && litellm -c x; b", "a && litellm -c x X; b"),
            ("litellm 2>&1 | tee /log", "litellm X 2>&1 | tee /log"),
            ("litellm --a 'b c' # why\n", "litellm --a 'b c' X # why\n"),
        ] {
            let commands = simple_commands(script);
            let is_litellm =
                |command: &&SimpleCommand| command.words.first() == Some(&Some("litellm".to_owned()));
            let end = commands.iter().find(is_litellm).unwrap().end;
            assert_eq!(format!("{} X{}", &script[..end], &script[end..]), expected);
        }
    }

    #[test]
    fn a_command_with_all_arguments_last_passes_them_on() {
        let passes = |script: &str| {
            let last = simple_commands(script).pop().unwrap();
            (last.passes_arguments, last.words.len())
        };
        assert_eq!(passes("exec litellm \"$@\""), (true, 1));
        assert_eq!(passes("litellm --port 1 $@"), (true, 3));
        assert_eq!(passes("litellm \"$@\" --port 1"), (false, 4));
        assert_eq!(passes("litellm \"$*\""), (false, 2));
    }
}
