//! Files that a start script writes, as far as text alone tells: the configuration that LiteLLM's own container makes is another one
//! than the sidecar has read by then.

use super::exec_wrapper::program_name;
use super::shell_script::{SimpleCommand, outputs, simple_commands};

/// Programs that only read the files they are told, or read none.
const READERS: &[&str] = &[
    "[",
    "[[",
    "test",
    "cat",
    "ls",
    "echo",
    "printf",
    "head",
    "tail",
    "grep",
    "egrep",
    "fgrep",
    "wc",
    "stat",
    "file",
    "du",
    "diff",
    "cmp",
    "cksum",
    "md5sum",
    "sha256sum",
    "less",
    "more",
    "readlink",
    "realpath",
    "basename",
    "dirname",
    "export",
    "readonly",
    "declare",
    "typeset",
    "local",
    "set",
    "for",
    "case",
    "chmod",
    "chown",
    "chgrp",
    "yamllint",
];
/// Programs that write the files they are told with an option alone, in place.
const IN_PLACE: &[&str] = &["sed", "gsed", "perl", "yq", "awk"];
const SHELLS: &[&str] = &["sh", "bash", "ash", "dash", "busybox", "eval"];
/// Scripts in the words of scripts that are looked into.
const MAX_DEPTH: usize = 3;

/// Whether a command of the script writes this file: by a redirection, as a copy, in place, or as a program that is told the file and not
/// known to only read it. `is_litellm` tells the commands that are LiteLLM.
pub(super) fn writes_file(script: &str, path: &str, is_litellm: &dyn Fn(&SimpleCommand) -> bool) -> bool {
    writes(script, path, is_litellm, 0)
}

fn writes(script: &str, path: &str, is_litellm: &dyn Fn(&SimpleCommand) -> bool, depth: usize) -> bool {
    let command_writes = |command: &SimpleCommand| {
        let is_shell = |word: &String| SHELLS.contains(&program_name(word));
        if !command.words.iter().flatten().any(is_shell) {
            return !is_litellm(command) && program_writes(&command.words, path);
        }
        let words = command.words.iter().flatten().map(String::as_str);
        let (scripts, words): (Vec<&str>, Vec<&str>) =
            words.partition(|word| word.contains(char::is_whitespace));
        let mut scripts = scripts.into_iter();
        names(&words, path)
            || depth < MAX_DEPTH && scripts.any(|script| writes(script, path, is_litellm, depth + 1))
    };
    outputs(script).iter().any(|output| output == path) || simple_commands(script).iter().any(command_writes)
}

fn program_writes(words: &[Option<String>], path: &str) -> bool {
    let Some((Some(program), arguments)) = words.split_first() else {
        return false;
    };
    let known: Vec<&str> = arguments.iter().flatten().map(String::as_str).collect();
    match program_name(program) {
        "cp" | "mv" | "install" | "ln" => writes_copy(arguments, path),
        name if READERS.contains(&name) => false,
        name if IN_PLACE.contains(&name) && !known.iter().any(|word| is_in_place(word)) => false,
        _ => names(&known, path),
    }
}

fn writes_copy(arguments: &[Option<String>], path: &str) -> bool {
    let Some((target, sources)) = arguments.split_last() else {
        return false;
    };
    let in_folder = |source: &String| {
        let name = program_name(source);
        target
            .as_deref()
            .is_some_and(|folder| format!("{}/{name}", folder.trim_end_matches('/')) == path)
    };
    target.as_deref() == Some(path) || sources.iter().flatten().any(in_folder)
}

/// `-i`, also among other letters (`-pi`), and `--in-place`, `--inplace`.
fn is_in_place(word: &str) -> bool {
    match word.strip_prefix("--") {
        Some(long) => long.starts_with("in-place") || long.starts_with("inplace"),
        None => word.starts_with('-') && word.contains('i'),
    }
}

/// Whether the words name the path, but for the value of an option by which programs are told their own configuration.
fn names(words: &[&str], path: &str) -> bool {
    let is_told = |index: usize| {
        let before = index.checked_sub(1).map(|before| words[before]);
        let word = words[index];
        matches!(before, Some("--config" | "-c")) && word == path
            || word.strip_prefix("--config=") == Some(path)
    };
    (0..words.len()).any(|index| !is_told(index) && holds(words[index], path))
}

/// Whether the path is in the word, and no longer one.
fn holds(word: &str, path: &str) -> bool {
    let is_of_path = |letter: char| letter.is_alphanumeric() || "._-/".contains(letter);
    // Behind the letter of a short option.
    let is_attached = word.starts_with('-') && word.get(2..) == Some(path);
    is_attached
        || word.match_indices(path).any(|(at, _)| {
            !word[..at].ends_with(is_of_path) && !word[at + path.len()..].starts_with(is_of_path)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(script: &str) -> bool {
        let is_litellm = |command: &SimpleCommand| {
            let mut words = command.words.iter().flatten();
            words.any(|word| program_name(word) == "litellm")
        };
        writes_file(script, "/w/c.yaml", &is_litellm)
    }

    #[test]
    fn a_script_writes_a_file_by_redirection_copy_or_a_program_that_is_told_it() {
        for script in [
            "envsubst < /t/c.yaml > /w/c.yaml && litellm --config /w/c.yaml",
            "cat >/w/c.yaml <<EOF\nmodel_list: []\nEOF\nlitellm",
            "echo a >> '/w/c.yaml'; litellm",
            "curl -s -o /w/c.yaml https://e; litellm",
            "curl -s --output=/w/c.yaml https://e; litellm",
            "cp /t/other.yaml /w/c.yaml && litellm",
            "/bin/cp -f /t/c.yaml /w/ && litellm",
            "gomplate < /t/c.yaml | tee /w/c.yaml; litellm",
            "sed -i \"s/__KEY__/$KEY/\" /w/c.yaml && exec litellm --config /w/c.yaml",
            "sed -E -i.bak s/a/b/ /w/c.yaml; litellm",
            "sed --in-place s/a/b/ /w/c.yaml; litellm",
            "yq -i '.a = 1' /w/c.yaml && litellm",
            "yq eval --inplace '.a = env(A)' /w/c.yaml && litellm",
            "perl -pi -e s/a/b/ /w/c.yaml; litellm",
            "wget -q -O /w/c.yaml https://e && litellm",
            "wget --output-document=/w/c.yaml https://e; litellm",
            "aws s3 cp s3://b/c.yaml /w/c.yaml && litellm",
            "gsutil cp gs://b/c.yaml /w/c.yaml; litellm",
            "gomplate -f /t/c.tmpl -o /w/c.yaml && litellm",
            "dd if=/t/c of=/w/c.yaml; litellm",
            "python -c 'open(\"/w/c.yaml\", \"w\").write(\"\")' && litellm",
            "python /render.py --output /w/c.yaml; litellm",
            "wget -O/w/c.yaml https://e; litellm",
            "sh -c 'sed -i s/a/b/ /w/c.yaml'; litellm",
            "sh /render.sh /w/c.yaml && litellm --config /w/c.yaml",
        ] {
            assert!(written(script), "{script}");
        }
    }

    #[test]
    fn what_only_reads_it_and_litellm_itself_write_nothing() {
        for script in [
            "litellm --config /w/c.yaml > /log 2>&1",
            "cat < /w/c.yaml; litellm --config /w/c.yaml",
            "cp /w/c.yaml /backup/c.yaml; litellm",
            "test -f /w/c.yaml && litellm",
            "until [ -s /w/c.yaml ]; do sleep 1; done; exec litellm --config /w/c.yaml",
            "timeout 60 sh -c 'until [ -f /w/c.yaml ]; do sleep 1; done' && litellm --config /w/c.yaml",
            "ls -l /w/c.yaml; cat /w/c.yaml | grep model; exec litellm",
            "sed -n 1p /w/c.yaml; yq .model_list /w/c.yaml; litellm",
            "export CONFIGURATION=/w/c.yaml; litellm --config $CONFIGURATION",
            "doppler run -- litellm --config /w/c.yaml",
            "set -- --config /w/c.yaml; exec litellm \"$@\"",
            "exec /start.sh --config /w/c.yaml --port 4000",
            "envsubst < /w/c.yaml > /tmp/c.yaml; litellm",
            "sed -i s/a/b/ /w/c.yaml.template; wget -O /other/w/c.yaml https://e; litellm",
            "echo '> /w/c.yaml'; litellm",
            "/w/c.yaml",
        ] {
            assert!(!written(script), "{script}");
        }
    }
}
