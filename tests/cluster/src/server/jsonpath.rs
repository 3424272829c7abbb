//! As much of JSONPath as printer columns use: fields, also in brackets, with
//! escaped dots, indices, stars, and filters for equality.

use serde_json::Value;

#[derive(Debug)]
enum Step {
    Field(String),
    Index(usize),
    All,
    /// Elements in which the field has this value.
    Where(Vec<String>, String),
}

/// What a path finds, in order; nothing where it does not lead.
pub fn find<'a>(path: &str, object: &'a Value) -> Vec<&'a Value> {
    let mut found = vec![object];
    for step in steps(path) {
        found = found
            .into_iter()
            .flat_map(|one| taken(&step, one))
            .collect();
    }
    found
}

fn taken<'a>(step: &Step, from: &'a Value) -> Vec<&'a Value> {
    let list = || from.as_array().into_iter().flatten();
    match step {
        Step::Field(name) => from.get(name).into_iter().collect(),
        Step::Index(at) => from.get(at).into_iter().collect(),
        Step::All => {
            let fields = from.as_object().into_iter().flat_map(|map| map.values());
            list().chain(fields).collect()
        }
        Step::Where(fields, value) => list()
            .filter(|one| {
                let field = fields.iter().try_fold(*one, |at, field| at.get(field));
                field.and_then(Value::as_str) == Some(value.as_str())
            })
            .collect(),
    }
}

fn steps(path: &str) -> Vec<Step> {
    let mut rest = path.trim_start_matches('{').trim_end_matches('}');
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix('[') {
            let (inside, after) = inside.split_once(']').unwrap_or((inside, ""));
            steps.push(bracket(inside));
            rest = after;
            continue;
        }
        rest = rest.strip_prefix('.').unwrap_or(rest);
        let (name, after) = field(rest);
        if !name.is_empty() {
            steps.push(if name == "*" {
                Step::All
            } else {
                Step::Field(name)
            });
        }
        rest = after;
    }
    steps
}

/// Up to the next dot or bracket that is not escaped.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => name.extend(letters.next().map(|(_, letter)| letter)),
            '.' | '[' => return (name, text.get(at..).unwrap_or_default()),
            letter => name.push(letter),
        }
    }
    (name, "")
}

fn bracket(inside: &str) -> Step {
    let quotes = |letter| letter == '\'' || letter == '"';
    if let Some(filter) = inside
        .strip_prefix("?(")
        .and_then(|rest| rest.strip_suffix(')'))
        && let Some((left, right)) = filter.split_once("==")
    {
        let fields = left.trim().trim_start_matches("@.").split('.');
        let value = right.trim().trim_matches(quotes).to_owned();
        return Step::Where(fields.map(str::to_owned).collect(), value);
    }
    match inside.parse() {
        Ok(at) => Step::Index(at),
        Err(_no_number) if inside == "*" => Step::All,
        Err(_no_number) => Step::Field(inside.trim_matches(quotes).to_owned()),
    }
}
