//! Configuration: what can be set (`settings`), for which container (`rules`), and what protects
//! (`protection`). Pure: texts in, values or errors out.
pub mod glob;
mod protection;
mod rules;
mod settings;

pub use protection::{By, Mark, Protection};
pub use rules::{Changes, ContainerFacts, Matches, Rule};
pub use settings::*;

/// Everything that was configured.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Config {
    pub guard: GuardSettings,
    pub host: HostSettings,
    pub record: RecordSettings,
    pub protect: Protect,
    /// What holds where no rule says otherwise.
    pub defaults: Settings,
    /// In order; a later one wins key by key.
    pub rules: Vec<Rule>,
}
