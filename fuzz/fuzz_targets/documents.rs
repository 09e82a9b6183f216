//! Any file in the configuration directory: one that is wrong harms no other, and to read it again
//! changes nothing.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;
use std::{env, fs, process};

use libfuzzer_sys::fuzz_target;
use mesh_agent::model::trust_domain::TrustDomains;
use mesh_agent::source::file::FileSource;

/// Documents in force whatever the other file says: of two with one name, the first wins.
const GOOD: &str = "apiVersion: v1
kind: Service
metadata:
  name: good
spec:
  clusterIP: 10.96.0.1
  ports: [{port: 80}]
";

/// A directory of this process's own.
static DIR: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = env::temp_dir().join(format!("mesh-fuzz-{}", process::id()));
    fs::create_dir_all(&dir).expect("a folder for the documents");
    fs::write(dir.join("a.yaml"), GOOD).expect("a document");
    dir
});

fuzz_target!(|input: &[u8]| {
    fs::write(DIR.join("b.yaml"), input).expect("a document");
    let domains = TrustDomains::new("cluster.local", []);
    let mut source = FileSource::new(DIR.clone(), domains, true).expect("a directory");
    let first = source.load();
    let good = first.resources.iter().filter(|resource| resource.location.file.ends_with("a.yaml"));
    assert_eq!(good.count(), 1, "{:?}", first.conditions);
    assert_eq!(source.load(), first);
});
