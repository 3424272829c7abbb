//! The few objects that `kubectl` sends as protobuf, whatever the server would
//! like better: what `create namespace`, `create serviceaccount`, `create
//! configmap`, `create token` and `auth can-i` ask for. Answers are JSON, which
//! it reads as well.

use serde_json::{Map, Value, json};

use super::failure::Failure;

/// Every message begins with this.
const MAGIC: &[u8] = b"k8s\0";

/// What a field holds. What is not listed is skipped.
enum Kind {
    Text,
    Texts,
    /// Of texts to texts.
    Table,
    Number,
    Message(&'static [Field]),
}

/// Number, name in JSON, and what is in it.
struct Field(u64, &'static str, Kind);

const METADATA: Field = Field(
    1,
    "metadata",
    Kind::Message(&[
        Field(1, "name", Kind::Text),
        Field(2, "generateName", Kind::Text),
        Field(3, "namespace", Kind::Text),
        Field(11, "labels", Kind::Table),
        Field(12, "annotations", Kind::Table),
    ]),
);
const PLAIN: &[Field] = &[METADATA];
const CONFIG_MAP: &[Field] = &[METADATA, Field(2, "data", Kind::Table)];
const TOKEN_REQUEST: &[Field] = &[
    METADATA,
    Field(
        2,
        "spec",
        Kind::Message(&[
            Field(1, "audiences", Kind::Texts),
            Field(
                3,
                "boundObjectRef",
                Kind::Message(&[
                    Field(1, "kind", Kind::Text),
                    Field(2, "apiVersion", Kind::Text),
                    Field(3, "name", Kind::Text),
                    Field(4, "uid", Kind::Text),
                ]),
            ),
            Field(4, "expirationSeconds", Kind::Number),
        ]),
    ),
];
const ACCESS_REVIEW: &[Field] = &[
    METADATA,
    Field(
        2,
        "spec",
        Kind::Message(&[
            Field(
                1,
                "resourceAttributes",
                Kind::Message(&[
                    Field(1, "namespace", Kind::Text),
                    Field(2, "verb", Kind::Text),
                    Field(3, "group", Kind::Text),
                    Field(4, "version", Kind::Text),
                    Field(5, "resource", Kind::Text),
                    Field(6, "subresource", Kind::Text),
                    Field(7, "name", Kind::Text),
                ]),
            ),
            Field(
                2,
                "nonResourceAttributes",
                Kind::Message(&[Field(1, "path", Kind::Text), Field(2, "verb", Kind::Text)]),
            ),
        ]),
    ),
];
/// Around every object: what it is, and its bytes.
const ENVELOPE: &[Field] = &[Field(
    1,
    "typeMeta",
    Kind::Message(&[
        Field(1, "apiVersion", Kind::Text),
        Field(2, "kind", Kind::Text),
    ]),
)];

/// # Errors
///
/// When this is no object, or none of the kinds that are known here.
pub fn read(body: &[u8]) -> Result<Value, Failure> {
    let broken = || Failure::bad_request("error decoding the body: no protobuf of Kubernetes");
    let body = body.strip_prefix(MAGIC).ok_or_else(broken)?;
    let envelope = message(ENVELOPE, body).ok_or_else(broken)?;
    let mut raw: &[u8] = &[];
    each(body, |number, value| {
        if let (2, Wire::Bytes(bytes)) = (number, value) {
            raw = bytes;
        }
    })
    .ok_or_else(broken)?;
    let kind = envelope["typeMeta"]["kind"].as_str().unwrap_or_default();
    let fields = match kind {
        "Namespace" | "ServiceAccount" | "SelfSubjectReview" => PLAIN,
        "ConfigMap" => CONFIG_MAP,
        "TokenRequest" => TOKEN_REQUEST,
        "SelfSubjectAccessReview" => ACCESS_REVIEW,
        _ => {
            return Err(Failure::media_type(&[
                "application/json",
                "application/yaml",
            ]));
        }
    };
    let mut object = message(fields, raw).ok_or_else(broken)?;
    object["apiVersion"] = envelope["typeMeta"]["apiVersion"].clone();
    object["kind"] = json!(kind);
    Ok(object)
}

enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// None when the bytes are no message.
fn message(fields: &[Field], bytes: &[u8]) -> Option<Value> {
    let mut map = Map::new();
    let mut whole = true;
    each(bytes, |number, value| {
        let Some(Field(_, name, kind)) = fields.iter().find(|field| field.0 == number) else {
            return;
        };
        whole &= put(&mut map, name, kind, &value).is_some();
    })?;
    whole.then_some(Value::Object(map))
}

/// What is empty is what is not there.
fn put(map: &mut Map<String, Value>, name: &str, kind: &Kind, value: &Wire<'_>) -> Option<()> {
    let bytes = match value {
        Wire::Bytes(bytes) => *bytes,
        Wire::Number(0) => return Some(()),
        Wire::Number(number) => {
            map.insert(name.to_owned(), (*number).into());
            return Some(());
        }
    };
    match kind {
        Kind::Number => return None,
        Kind::Text => {
            let text = std::str::from_utf8(bytes).ok()?;
            if !text.is_empty() {
                map.insert(name.to_owned(), text.into());
            }
        }
        Kind::Texts => {
            let text = std::str::from_utf8(bytes).ok()?;
            let list = map.entry(name.to_owned()).or_insert_with(|| json!([]));
            list.as_array_mut()?.push(text.into());
        }
        Kind::Table => {
            let pair = message(
                &[Field(1, "key", Kind::Text), Field(2, "value", Kind::Text)],
                bytes,
            )?;
            let table = map.entry(name.to_owned()).or_insert_with(|| json!({}));
            let text = |field: &str| pair[field].as_str().unwrap_or_default();
            table
                .as_object_mut()?
                .insert(text("key").to_owned(), text("value").into());
        }
        Kind::Message(fields) => {
            map.insert(name.to_owned(), message(fields, bytes)?);
        }
    }
    Some(())
}

/// Each field of a message, in order.
fn each<'a>(mut bytes: &'a [u8], mut take: impl FnMut(u64, Wire<'a>)) -> Option<()> {
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let value = match tag & 7 {
            0 => Wire::Number(varint(&mut bytes)?),
            1 => Wire::Bytes(bytes.split_off(..8)?),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                Wire::Bytes(bytes.split_off(..length)?)
            }
            5 => Wire::Bytes(bytes.split_off(..4)?),
            _ => return None,
        };
        take(tag >> 3, value);
    }
    Some(())
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
