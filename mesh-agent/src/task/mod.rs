//! Tasks and time: nothing runs unowned.

pub mod backoff;
pub mod clock;
pub mod ready;
pub mod scope;
pub mod worker;
