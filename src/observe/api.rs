//! The bodies of the JSON interface, from the plain values of `report`. A request's container, on
//! the door that containers use, is the only one in what it is answered. Reads nothing.

use serde::Serialize;

use crate::report::{ContainerView, Health, SCHEMA, Survey};
use crate::units::Bytes;

/// `/api/v1/containers`: everything that is known of now.
pub fn containers(survey: &Survey) -> Vec<u8> {
    json(survey)
}

/// `/api/v1/notebooks`: total, threshold, sum, and `[pid, memory, name]` of each notebook.
pub fn notebooks(survey: &Survey) -> Vec<u8> {
    json(&Notebooks {
        schema: SCHEMA,
        time: &survey.time,
        containers: survey.containers.iter().map(Short::of).collect(),
    })
}

/// `/healthz`.
pub fn health(health: &Health) -> Vec<u8> {
    json(health)
}

/// The body of every answer that is none.
pub fn error(text: &str) -> Vec<u8> {
    json(&Refused { error: text })
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // A derived struct with string keys has no way to fail.
    serde_json::to_vec(value).unwrap_or_default()
}

#[derive(Serialize)]
struct Notebooks<'a> {
    schema: u32,
    time: &'a str,
    containers: Vec<Short<'a>>,
}

#[derive(Serialize)]
struct Short<'a> {
    id: &'a str,
    name: &'a str,
    total: Bytes,
    threshold: Bytes,
    sum: Bytes,
    ratio: f64,
    notebooks: Vec<(u32, Bytes, &'a str)>,
}

impl<'a> Short<'a> {
    fn of(view: &'a ContainerView) -> Short<'a> {
        Short {
            id: &view.id,
            name: &view.name,
            total: view.total,
            threshold: view.threshold,
            sum: view.sum,
            ratio: view.ratio,
            notebooks: view.notebooks.iter().map(|n| (n.pid, n.memory, n.name.as_str())).collect(),
        }
    }
}

#[derive(Serialize)]
struct Refused<'a> {
    error: &'a str,
}
