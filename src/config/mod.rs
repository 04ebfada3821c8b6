//! Configuration: what can be set (`settings`), every key of it once (`keys`), for which
//! container (`rules`), what protects (`protection`); how files are read (`read`) and what is
//! told of their mistakes (`error`). Pure: texts in, values or errors out. `host::conf` reads files.

mod check;
mod error;
pub mod glob;
pub mod keys;
mod nearest;
mod protection;
pub mod quantity;
mod read;
mod rules;
pub mod settings;
mod syntax;
mod value;

pub use error::{ConfigError, Errors, Severity, Warning};
pub use nearest::nearest;
pub use protection::{By, Mark, Protection};
pub use rules::{Changes, ContainerFacts, Matches, Rule};
pub use settings::*;
pub use value::{Kind, Words, names};

/// Everything that was configured.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Config {
    pub guard: GuardSettings,
    pub host: HostSettings,
    pub record: RecordSettings,
    pub protect: Protect,
    pub message: MessageSettings,
    pub http: HttpSettings,
    pub hook: HookSettings,
    /// What holds where no rule says otherwise.
    pub defaults: Settings,
    /// In order; a later one wins key by key.
    pub rules: Vec<Rule>,
}
