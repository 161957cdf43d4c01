//! The protobuf form of an OpenAPI v2 document (`openapi.v2.Document` of gnostic), which is all that Go clients ask for.
//! Numbers are those of its fields in `OpenAPIv2.proto`.

use serde_json::{Map, Value};

/// Of what `v2` writes: other parts of OpenAPI are left out.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, &document["swagger"]);
    let mut info = Message::default();
    info.text(1, &document["info"]["title"]);
    info.text(2, &document["info"]["version"]);
    out.message(2, &info);
    let mut paths = Message::default();
    paths.named(2, &document["paths"], path);
    out.message(8, &paths);
    let mut definitions = Message::default();
    definitions.named(1, &document["definitions"], schema);
    out.message(9, &definitions);
    out.0
}

fn path(value: &Value) -> Message {
    let mut out = Message::default();
    for (number, verb) in [(2, "get"), (3, "put"), (5, "delete"), (8, "patch")] {
        if let Some(value) = value.get(verb) {
            out.message(number, &operation(value));
        }
    }
    out
}

fn operation(value: &Value) -> Message {
    let mut out = Message::default();
    out.text(5, &value["operationId"]);
    for parameter in value["parameters"].as_array().into_iter().flatten() {
        let mut query = Message::default();
        query.text(2, &parameter["in"]);
        query.text(4, &parameter["name"]);
        query.text(6, &parameter["type"]);
        query.flag(20, &parameter["uniqueItems"]);
        // ParametersItem.parameter, Parameter.non_body_parameter, NonBodyParameter.query_parameter_sub_schema
        out.message(8, &query.within(3).within(2).within(1));
    }
    let mut responses = Message::default();
    responses.named(1, &value["responses"], |response| {
        let mut out = Message::default();
        out.text(1, &response["description"]);
        out.within(1)
    });
    out.message(9, &responses);
    out.extensions(13, value);
    out
}

fn schema(value: &Value) -> Message {
    let mut out = Message::default();
    for (number, name) in [(1, "$ref"), (2, "format"), (4, "description")] {
        out.text(number, &value[name]);
    }
    for name in value["required"].as_array().into_iter().flatten() {
        out.text(19, name);
    }
    if let Some(values) = value.get("additionalProperties") {
        out.message(21, &schema(values).within(1));
    }
    if let Some(kind) = value.get("type") {
        let mut kinds = Message::default();
        kinds.text(1, kind);
        out.message(22, &kinds);
    }
    if let Some(items) = value.get("items") {
        out.message(23, &schema(items).within(1));
    }
    if let Some(fields) = value.get("properties") {
        let mut properties = Message::default();
        properties.named(1, fields, schema);
        out.message(25, &properties);
    }
    out.extensions(31, value);
    out
}

/// The bytes of one message, so far.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: usize) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, number: usize, bytes: &[u8]) {
        self.varint(number << 3 | 2);
        self.varint(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, number: usize, inner: &Message) {
        self.bytes(number, &inner.0);
    }

    /// This message as the field of one around it.
    fn within(&self, number: usize) -> Message {
        let mut around = Message::default();
        around.message(number, self);
        around
    }

    /// Nothing if it is no text.
    fn text(&mut self, number: usize, value: &Value) {
        if let Some(text) = value.as_str() {
            self.bytes(number, text.as_bytes());
        }
    }

    fn flag(&mut self, number: usize, value: &Value) {
        if value == true {
            self.varint(number << 3);
            self.varint(1);
        }
    }

    /// A map, which is a list of messages with a name and a value.
    fn named(&mut self, number: usize, values: &Value, encode: impl Fn(&Value) -> Message) {
        for (name, value) in values.as_object().into_iter().flat_map(Map::iter) {
            let mut entry = Message::default();
            entry.bytes(1, name.as_bytes());
            entry.message(2, &encode(value));
            self.message(number, &entry);
        }
    }

    /// What begins with `x-`: text of YAML, which JSON is.
    fn extensions(&mut self, number: usize, values: &Value) {
        for (name, value) in values.as_object().into_iter().flat_map(Map::iter) {
            if name.starts_with("x-") {
                let mut yaml = Message::default();
                yaml.bytes(2, value.to_string().as_bytes());
                let mut entry = Message::default();
                entry.bytes(1, name.as_bytes());
                entry.message(2, &yaml);
                self.message(number, &entry);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::encode;

    /// A field as the wire has it.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        assert!(number < 16 && bytes.len() < 128, "tag and length are one byte each");
        [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
    }

    #[test]
    fn a_parameter_is_where_go_clients_look_for_it() {
        let parameter = json!({"name": "dryRun", "in": "query"});
        let document = json!({"paths": {"/a": {"patch": {"parameters": [parameter], "x-b": {"c": 1}}}}});
        let query = [field(2, b"query"), field(4, b"dryRun")].concat();
        let parameter = field(8, &field(1, &field(2, &field(3, &query))));
        let extension = field(13, &[field(1, b"x-b"), field(2, &field(2, b"{\"c\":1}"))].concat());
        let patch = [parameter, field(9, b""), extension].concat();
        let paths = field(2, &[field(1, b"/a"), field(2, &field(8, &patch))].concat());
        assert_eq!(encode(&document), [field(2, b""), field(8, &paths), field(9, b"")].concat());
    }

    #[test]
    fn long_messages_have_long_lengths() {
        let text = "x".repeat(300);
        let encoded = encode(&json!({"swagger": text}));
        assert_eq!(encoded[..3], [10, 0xac, 0x02]);
        assert_eq!(&encoded[3..303], text.as_bytes());
    }
}
