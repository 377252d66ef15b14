//! Paths of files in a container, as text.

/// The path without empty and `.` segments; `None` for a relative one and for one with `..`.
pub(super) fn normalize(path: &str) -> Option<String> {
    let segments: Vec<&str> = path
        .strip_prefix('/')?
        .split('/')
        .filter(|segment| !matches!(*segment, "" | "."))
        .collect();
    (!segments.contains(&"..")).then(|| format!("/{}", segments.join("/")))
}

pub(super) fn is_yaml(path: &str) -> bool {
    path.ends_with(".yaml") || path.ends_with(".yml")
}

/// Folder of an absolute path, itself `/` or without a slash at its end.
pub(super) fn folder(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((folder, _)) => folder,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_a_folder() {
        assert_eq!(folder("/a/b.yaml"), "/a");
        assert_eq!(folder("/b.yaml"), "/");
    }
}
