//! What a tag may be called, and when two paths are one.

/// The longest name without its prefix.
const LONGEST_NAME: usize = 63;
/// The longest DNS subdomain.
const LONGEST_PREFIX: usize = 253;
const NAME: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
     with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for \
     validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const PREFIX: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
     characters, '-' or '.', and must start and end with an alphanumeric character (e.g. \
     'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

/// Why a text is no qualified name, `[prefix/]name`, as Kubernetes says it of
/// the first thing that is wrong (`validation.IsQualifiedName`).
#[must_use]
pub fn why_not_qualified(text: &str) -> Option<String> {
    let (prefix, name) = match text.split_once('/') {
        None => (None, text),
        Some((_, rest)) if rest.contains('/') => {
            return Some(format!(
                "a qualified name {NAME} with an optional DNS subdomain prefix and '/' (e.g. \
                 'example.com/MyName')"
            ));
        }
        Some((prefix, name)) => (Some(prefix), name),
    };
    match prefix {
        Some("") => return Some("prefix part must be non-empty".to_owned()),
        Some(long) if long.len() > LONGEST_PREFIX => {
            return Some(format!(
                "prefix part must be no more than {LONGEST_PREFIX} bytes"
            ));
        }
        Some(prefix) if !prefix.split('.').all(is_label) => {
            return Some(format!("prefix part {PREFIX}"));
        }
        Some(_) | None => {}
    }
    if name.is_empty() {
        return Some("name part must be non-empty".to_owned());
    }
    if name.len() > LONGEST_NAME {
        return Some(format!(
            "name part must be no more than {LONGEST_NAME} bytes"
        ));
    }
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let edge = |c: char| c.is_ascii_alphanumeric();
    (!name.chars().all(inner) || !name.starts_with(edge) || !name.ends_with(edge))
        .then(|| format!("name part {NAME}"))
}

fn is_label(label: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    label.chars().all(|c| edge(c) || c == '-') && label.starts_with(edge) && label.ends_with(edge)
}

/// A path without what says nothing, as Go's `filepath.Clean`.
#[must_use]
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut kept: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match kept.last() {
                Some(&last) if last != ".." => {
                    kept.pop();
                }
                Some(_) | None if rooted => {}
                Some(_) | None => kept.push(part),
            },
            name => kept.push(name),
        }
    }
    let joined = kept.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_go_does_it() {
        for (path, cleaned) in [
            ("/mnt/longhorn/sdb1/", "/mnt/longhorn/sdb1"),
            ("//mnt/./longhorn/x/../sdb1", "/mnt/longhorn/sdb1"),
            ("/../..", "/"),
            ("", "."),
            ("a/..", "."),
            ("../a/../..", "../.."),
        ] {
            assert_eq!(clean(path), cleaned, "{path}");
        }
    }

    #[test]
    fn a_qualified_name_is_what_kubernetes_takes_for_one() {
        for good in ["ssd", "a", "A.b_c-9", "example.com/fast", &"x".repeat(63)] {
            assert_eq!(why_not_qualified(good), None, "{good}");
        }
        for (bad, why) in [
            ("", "name part must be non-empty"),
            ("/x", "prefix part must be non-empty"),
            ("x/", "name part must be non-empty"),
            ("a/b/c", "a qualified name"),
            ("-a", "name part must consist of"),
            ("a b", "name part must consist of"),
            ("Ex.com/a", "prefix part a lowercase"),
            ("a..b/c", "prefix part a lowercase"),
            (&"x".repeat(64), "name part must be no more than 63 bytes"),
        ] {
            let said = why_not_qualified(bad).unwrap_or_default();
            assert!(said.starts_with(why), "{bad}: {said}");
        }
    }
}
