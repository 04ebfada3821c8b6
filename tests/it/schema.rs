//! JSON against the schemas in `tests/schemas`: the part of JSON Schema that they use, and no
//! keyword that is not understood here.

use serde_json::{Map, Value};

use crate::read;

/// Fails with the place that is wrong.
pub fn check(name: &str, value: &Value) {
    let wrong = wrong(name, value);
    assert!(wrong.is_empty(), "{name}:\n{}", wrong.join("\n"));
}

fn wrong(name: &str, value: &Value) -> Vec<String> {
    let schema: Value = serde_json::from_str(&read(&format!("tests/schemas/{name}.json"))).unwrap();
    let mut wrong = Vec::new();
    against(&schema, &schema, value, name, &mut wrong);
    wrong
}

fn against(root: &Value, schema: &Value, value: &Value, at: &str, wrong: &mut Vec<String>) {
    let schema = schema.as_object().unwrap_or_else(|| panic!("{at}: a schema is an object"));
    for (keyword, rule) in schema {
        match keyword.as_str() {
            "$schema" | "title" | "$defs" | "properties" => {}
            "$ref" => {
                let name = rule.as_str().and_then(|path| path.strip_prefix("#/$defs/")).unwrap();
                against(root, &root["$defs"][name], value, at, wrong);
            }
            "type" => {
                let one = std::slice::from_ref(rule);
                let kinds = rule.as_array().map_or(one, |kinds| kinds);
                if !kinds.iter().any(|kind| is(kind.as_str().unwrap(), value)) {
                    wrong.push(format!("{at}: {value} is not {rule}"));
                }
            }
            "enum" if !rule.as_array().unwrap().contains(value) => {
                wrong.push(format!("{at}: {value} is none of {rule}"));
            }
            "minimum" if value.as_f64().is_some_and(|v| v < rule.as_f64().unwrap()) => {
                wrong.push(format!("{at}: {value} is below {rule}"));
            }
            "minItems" | "maxItems" => {
                let (len, rule) =
                    (value.as_array().map_or(0, Vec::len) as u64, rule.as_u64().unwrap());
                if (keyword == "minItems" && len < rule) || (keyword == "maxItems" && len > rule) {
                    wrong.push(format!("{at}: {len} items, {keyword} {rule}"));
                }
            }
            "required" => {
                for name in rule.as_array().unwrap().iter().filter_map(Value::as_str) {
                    if value.as_object().is_some_and(|object| !object.contains_key(name)) {
                        wrong.push(format!("{at}.{name}: missing"));
                    }
                }
            }
            "additionalProperties" => fields(root, schema, rule, value, at, wrong),
            "items" => {
                for (n, item) in value.as_array().into_iter().flatten().enumerate() {
                    against(root, rule, item, &format!("{at}[{n}]"), wrong);
                }
            }
            "prefixItems" => {
                let items = value.as_array().into_iter().flatten();
                for ((n, item), rule) in items.enumerate().zip(rule.as_array().unwrap()) {
                    against(root, rule, item, &format!("{at}[{n}]"), wrong);
                }
            }
            "enum" | "minimum" => {}
            other => panic!("{at}: the keyword {other} is not understood"),
        }
    }
}

fn fields(
    root: &Value,
    schema: &Map<String, Value>,
    others: &Value,
    value: &Value,
    at: &str,
    wrong: &mut Vec<String>,
) {
    for (name, value) in value.as_object().into_iter().flatten() {
        let at = format!("{at}.{name}");
        match schema.get("properties").and_then(|known| known.get(name)) {
            Some(rule) => against(root, rule, value, &at, wrong),
            None if *others == Value::Bool(false) => wrong.push(format!("{at}: not in the schema")),
            None => against(root, others, value, &at, wrong),
        }
    }
}

fn is(kind: &str, value: &Value) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        other => panic!("there is no type {other}"),
    }
}

#[test]
fn what_is_not_as_the_schema_says_is_found() {
    let good = serde_json::json!({"status":"ok","version":"1","uptime_s":1,"containers":0});
    check("health", &good);
    for (change, what) in [
        (("status", Value::from(1)), "health.status"),
        (("uptime_s", Value::from(-1)), "below"),
        (("uptime_s", Value::from(1.5)), "integer"),
        (("surplus", Value::Null), "not in the schema"),
    ] {
        let mut bad = good.clone();
        bad[change.0] = change.1;
        assert!(
            wrong("health", &bad).iter().any(|w| w.contains(what)),
            "{:?}",
            wrong("health", &bad)
        );
    }
    let mut bad = good;
    bad.as_object_mut().unwrap().remove("version");
    assert_eq!(wrong("health", &bad), ["health.version: missing"]);
    let row = |row: Value| {
        serde_json::json!({"schema":1,"time":"","containers":[{"id":"","name":"",
        "total":1,"threshold":1,"sum":1,"ratio":0.5,"notebooks":[row]}]})
    };
    check("notebooks", &row(serde_json::json!([1, 2, "python3"])));
    assert!(!wrong("notebooks", &row(serde_json::json!([1, "x", "python3"]))).is_empty());
    assert!(!wrong("notebooks", &row(serde_json::json!([1, 2]))).is_empty());
}
