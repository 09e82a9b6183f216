//! The beginning of the tests of tunnels.

use std::time::Duration;

use crate::native::Options;
use crate::native::quota::{Bounds, Most};
use crate::native::session::Limits;

/// Small bounds, and no time that passes by itself.
pub(super) fn options() -> Options {
    let most = Most { streams: 64, bytes: 1 << 22 };
    Options {
        limits: Limits { streams: 64, window: 1 << 16, growth: 1 << 22 },
        clients: Bounds { peer: most, workload: most },
        servers: Bounds { peer: most, workload: most },
        max_tunnels: 4,
        max_output_bytes: 1 << 19,
        idle_timeout: Duration::from_mins(1),
        ping_interval: Duration::from_mins(1),
        ping_timeout: Duration::from_mins(1),
    }
}
