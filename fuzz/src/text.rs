//! What the targets for tables of the kernel have in common.

/// Undoes the kernel's escapes (`mangle_path` in fs/seq_file.c): a backslash
/// and three octal digits are a byte.
pub fn unescape(field: &str) -> String {
    let bytes = field.as_bytes();
    let mut plain = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let octal = |digit: &u8| matches!(digit, b'0'..=b'7');
        match &bytes[at..] {
            [b'\\', a @ b'0'..=b'3', b, c, ..] if octal(b) && octal(c) => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                at += 4;
            }
            _ => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// Escapes whatever could have a meaning, more than the kernel does.
pub fn escape(field: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'/' | 0x80.. => vec![byte],
        _ => format!("\\{byte:03o}").into_bytes(),
    };
    let bytes = field.bytes().flat_map(byte).collect();
    String::from_utf8(bytes).expect("other bytes are as they were")
}

/// The number of the line that an error names.
pub fn line_in(error: &str) -> usize {
    let number = error.strip_prefix("line ").expect("it begins with that");
    let end = number.find(' ').expect("a word behind it");
    number[..end].parse().expect("a number")
}
