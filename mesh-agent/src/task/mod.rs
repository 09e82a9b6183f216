//! Tasks and time: nothing runs unowned.

pub mod backoff;
pub mod batch;
pub mod allowance;
pub mod busy;
pub mod clock;
pub mod ready;
pub mod ending;
pub mod scope;
pub mod turns;
pub mod units;
pub mod worker;
