//! The source is asked to read its files now.

use super::*;

#[tokio::test]
async fn who_asks_waits_for_no_event() {
    let lab = Lab::new();
    // A change elsewhere gives no event.
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("a.yaml");
    fs::write(&file, service("a", 1)).unwrap();
    std::os::unix::fs::symlink(&file, lab.dir.path().join("a.yaml")).unwrap();
    let scope = Scope::new("source");
    let (tx, mut rx) = mpsc::channel(1);
    let (again, asked) = channel();
    scope.spawn(lab.source.run(tx, asked, heads::gate(), scope.clone()));
    let word_of = |update: Update| word(&update.resources[0].object);
    assert_eq!(word_of(rx.recv().await.unwrap()), "Service default/a 1");
    let began = Instant::now();
    for port in 2..5 {
        fs::write(&file, service("a", port)).unwrap();
        assert!(again.read().await);
        assert_eq!(word_of(rx.try_recv().unwrap()), format!("Service default/a {port}"));
    }
    assert!(began.elapsed() < LOOK_AGAIN, "it has looked by itself");
    // An update that says the same is not sent.
    assert!(again.read().await);
    assert!(rx.try_recv().is_err());
    assert_eq!(scope.drain(Duration::from_secs(5)).await, 0);
    assert!(!again.read().await);
}
