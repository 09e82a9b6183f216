//! Where it was measured, and what may have disturbed it.

use std::{fmt, fs};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::measure::Sample;
use crate::result::median;
use crate::workload::Contender;

/// From which share of the machine on what others do to it is a disturbance.
const BUSY: f64 = 0.1;

/// Where it was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub kernel: String,
    pub cpus: usize,
    pub model: String,
    pub congestion_control: String,
}

/// The others' use of the machine, in processors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Noise {
    /// In the median of all measurements.
    pub median: f64,
    /// In the worst of them.
    pub max: f64,
    /// How far the busiest workload without any proxy was from its own median, in the worst round:
    /// 0.1 is 10 percent. Absent with one round.
    pub direct_spread: Option<f64>,
    /// Whether that is too much.
    pub busy: bool,
}

impl Machine {
    /// Reads what this machine is.
    ///
    /// # Errors
    ///
    /// The kernel does not say.
    pub(crate) fn read() -> Result<Self> {
        let read =
            |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
        let model = model(&read("/proc/cpuinfo")?).unwrap_or("unknown").to_owned();
        Ok(Self {
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            model,
            // The lab sets it in each namespace, whatever the host uses.
            congestion_control: "cubic".to_owned(),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, cpus, model, congestion_control } = self;
        write!(f, "Linux {kernel}, {cpus} × {model}, TCP {congestion_control}")
    }
}

impl Noise {
    /// The noise that the measurements show of each other and of others.
    /// `more` is what others used during other measurements.
    pub(crate) fn of(samples: &[Sample], more: &[f64], cpus: usize) -> Self {
        let seen = samples.iter().filter_map(|sample| sample.seen.as_ref().ok());
        let foreign = seen.map(|seen| seen.usage.foreign);
        let foreign: Vec<f64> = foreign.chain(more.iter().copied()).collect();
        let max = foreign.iter().copied().fold(0.0, f64::max);
        let median = median(foreign).unwrap_or_default();
        let cpus = f64::from(u32::try_from(cpus).unwrap_or(u32::MAX));
        Self { median, max, direct_spread: spread(samples), busy: median > BUSY * cpus }
    }

    /// The same in words.
    pub(crate) fn verdict(&self, cpus: usize) -> String {
        let spread = self.direct_spread.map_or_else(String::new, |spread| {
            format!("; direct rates were within {:.0} % of their medians", spread * 100.0)
        });
        let seen = format!(
            "others used {:.2} of {cpus} processors in the median, {:.2} at most{spread}",
            self.median, self.max
        );
        if self.busy {
            format!("Noise: {seen}. This is too much: read the ratios, and repeat it")
        } else {
            format!("Noise: {seen}")
        }
    }
}

/// The largest distance of a direct rate from the median of its workload, as a share.
#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark are far below 2^52")]
fn spread(samples: &[Sample]) -> Option<f64> {
    let rate = |sample: &Sample| {
        let report = sample.seen.as_ref().ok()?.report;
        let amount = if report.bytes > 0 { report.bytes } else { report.done };
        (report.seconds > 0.0).then(|| amount as f64 / report.seconds)
    };
    let direct: Vec<_> =
        samples.iter().filter(|sample| sample.contender == Contender::Direct).collect();
    let mut worst = None;
    for sample in &direct {
        let cell = (sample.path, sample.workload);
        let same = direct.iter().filter(|other| (other.path, other.workload) == cell);
        let rates: Vec<f64> = same.filter_map(|other| rate(other)).collect();
        if rates.len() < 2 {
            continue;
        }
        let (Some(own), Some(middle)) = (rate(sample), median(rates)) else { continue };
        let distance = (own / middle - 1.0).abs();
        worst = Some(worst.map_or(distance, |worst: f64| worst.max(distance)));
    }
    worst
}

/// The first `model name` in `/proc/cpuinfo`; other architectures have none.
fn model(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(line.trim_start_matches([' ', '\t', ':']).trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_the_first_processors() {
        let text = "processor\t: 0\nmodel name\t: A CPU @ 2.30GHz\nmodel name\t: Another\n";
        assert_eq!(model(text), Some("A CPU @ 2.30GHz"));
        assert_eq!(model("BogoMIPS : 50\n"), None);
    }

    #[test]
    fn a_busy_machine_is_called_one() {
        let quiet = Noise { median: 0.05, max: 0.3, direct_spread: Some(0.07), busy: false };
        assert_eq!(
            quiet.verdict(2),
            "Noise: others used 0.05 of 2 processors in the median, 0.30 at most; direct rates \
             were within 7 % of their medians"
        );
        let busy = Noise { busy: true, ..quiet };
        assert!(busy.verdict(2).ends_with("read the ratios, and repeat it"));
    }
}
