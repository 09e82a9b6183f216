//! Tasks and time: nothing runs unowned.

pub mod allowance;
pub mod backoff;
pub mod batch;
pub mod clock;
pub mod duty;
pub mod ending;
pub mod fair;
pub mod ready;
pub mod scope;
pub mod turns;
pub mod units;
pub mod worker;
