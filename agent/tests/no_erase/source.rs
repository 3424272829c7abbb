//! The sources without their comments and tests, so that a word that is only
//! explained, or only a test's, is not taken for code.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What remains of a source file.
#[derive(Debug, Default)]
pub struct Code {
    /// The text, its comments and tests blank.
    pub text: String,
    /// String literals, without quotes and with escapes as written.
    pub literals: Vec<String>,
    /// Modules in files of their own that are only built for tests.
    test_modules: Vec<String>,
}

/// Every file below a directory, in the order of their names.
pub fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| {
        panic!("{}: {error}", directory.display());
    });
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    paths
        .into_iter()
        .flat_map(|path| {
            if path.is_dir() {
                files_below(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

/// The code of every Rust file below a directory that is built into the
/// program, by its path from there.
pub fn code_below(directory: &Path) -> Vec<(String, Code)> {
    let read: Vec<(PathBuf, Code)> = files_below(directory)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|kind| kind == "rs"))
        .map(|path| {
            let text = fs::read_to_string(&path).expect("UTF-8");
            (path, code(&text))
        })
        .collect();
    let for_tests: Vec<PathBuf> = read
        .iter()
        .flat_map(|(path, code)| {
            code.test_modules.iter().map(|module| {
                let plain = path.with_extension("");
                let own = ["mod", "lib", "main"]
                    .iter()
                    .any(|name| plain.ends_with(name));
                let above = if own {
                    path.parent().expect("a directory")
                } else {
                    &plain
                };
                above.join(module)
            })
        })
        .collect();
    read.into_iter()
        .filter(|(path, _)| {
            let module = path.with_extension("");
            !for_tests.iter().any(|test| module.starts_with(test))
        })
        .map(|(path, code)| {
            let name = path.strip_prefix(directory).expect("it is below");
            (name.display().to_string(), code)
        })
        .collect()
}

/// Takes comments and tests out of a source file.
pub fn code(text: &str) -> Code {
    let mut code = Code::default();
    // As long as the text, with literals blank as well: what is left of
    // brackets has a meaning.
    let mut shape = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (kind, len) = token(rest);
        let (token, behind) = rest.split_at(len);
        let blank: String = token.chars().map(blank).collect();
        match kind {
            Kind::Comment => code.text.push_str(&blank),
            Kind::Literal | Kind::Code => code.text.push_str(token),
        }
        shape.push_str(if kind == Kind::Code { token } else { &blank });
        rest = behind;
    }
    while let Some(start) = shape.find("#[cfg(test)]") {
        let item = &shape[start..];
        let end = item_end(item);
        let words: Vec<&str> = item[..end].split([' ', '\n', ';']).collect();
        if let Some(at) = words.iter().position(|word| *word == "mod")
            && item[..end].ends_with(';')
        {
            code.test_modules.push(words[at + 1].to_owned());
        }
        for text in [&mut code.text, &mut shape] {
            let blank: String = text[start..start + end].chars().map(blank).collect();
            text.replace_range(start..start + end, &blank);
        }
    }
    code.literals = literals(&code.text);
    code
}

/// As many bytes that mean nothing, lines kept.
fn blank(c: char) -> String {
    if c == '\n' {
        "\n".to_owned()
    } else {
        " ".repeat(c.len_utf8())
    }
}

/// Where an item ends: behind its last brace, or at a semicolon outside of
/// brackets.
fn item_end(item: &str) -> usize {
    let mut depth = 0;
    for (at, c) in item.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 && matches!(c, '}' | ';') {
            return at + 1;
        }
    }
    item.len()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

/// The next token and its length, as far as it matters here.
fn token(text: &str) -> (Kind, usize) {
    let until = |end: &str, from: usize| {
        let found = text.get(from..).and_then(|rest| rest.find(end));
        found.map_or(text.len(), |at| from + at + end.len())
    };
    if text.starts_with("//") {
        return (Kind::Comment, text.find('\n').unwrap_or(text.len()));
    }
    if text.starts_with("/*") {
        return (Kind::Comment, until("*/", 2));
    }
    if text.starts_with('"') {
        return (Kind::Literal, quoted(text));
    }
    if let Some(rest) = text.strip_prefix('r') {
        let hashes = rest.len() - rest.trim_start_matches('#').len();
        if rest[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            return (Kind::Literal, until(&end, hashes + 2));
        }
    }
    // A character, and not the beginning of a lifetime.
    if let Some(rest) = text.strip_prefix('\'') {
        let mut chars = rest.char_indices();
        return match chars.next() {
            Some((_, '\\')) => (Kind::Literal, until("'", 3)),
            Some((_, c)) if rest[c.len_utf8()..].starts_with('\'') => {
                (Kind::Literal, c.len_utf8() + 2)
            }
            _ => (Kind::Code, 1),
        };
    }
    // A whole word at once: the r of `for` begins no raw string.
    let word = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    let len = match word {
        Some(0) => text.chars().next().map_or(0, char::len_utf8),
        Some(at) => at,
        None => text.len(),
    };
    (Kind::Code, len)
}

/// The length of a string literal with its quotes.
fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn literals(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (kind, len) = token(rest);
        let (token, behind) = rest.split_at(len);
        if kind == Kind::Literal && !token.starts_with('\'') {
            let inner = token.trim_start_matches('r').trim_matches('#');
            found.push(inner.trim_matches('"').to_owned());
        }
        rest = behind;
    }
    found
}
