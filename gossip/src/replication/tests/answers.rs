//! Askers that hold on to what they were given, and those that need something meanwhile.

use quinn::RecvStream;

use super::*;
use crate::net::frames::Patience;
use crate::replication::pull;

async fn next(stream: &mut RecvStream) -> Frame {
    within("a frame comes", frames::read(stream, Patience::Endless)).await.unwrap().unwrap()
}

#[tokio::test]
async fn comparisons_without_end_and_streams_without_a_question_take_no_pulls_place() {
    let authority = DevAuthority::new("test").unwrap();
    let nodes = three(&authority).await;
    let [a, b, c] = &nodes;
    let held = a.store.commits_of(10);
    b.store.reaches("all of a", &held).await;
    c.store.reaches("all of a", &held).await;
    a.store.endless.store(true, Ordering::Relaxed);

    let connection = b.net.connection(a.net.node()).unwrap();
    let mut silent = Vec::new();
    for _ in 0..6 {
        let (mut send, recv) = connection.open_bi().await.unwrap();
        send.write_all(&[Kind::Pull as u8]).await.unwrap();
        silent.push((send, recv));
    }
    let still_looking = Frame::Chunk([].into());
    let compare = async |asker: &TestNode| pull::ask_for(&asker.net, a.net.node(), &Frame::Compare).await.unwrap();
    let mut first = compare(b).await;
    assert_eq!(next(&mut first).await, still_looking);
    // Another one of the same node has no place, one of the next node has.
    assert_eq!(next(&mut compare(b).await).await, Frame::Refused("busy with other answers".into()));
    assert_eq!(next(&mut compare(c).await).await, still_looking);

    for asker in [b, c] {
        let question = Frame::Pull(kith_gossip_proto::frame::Question::default());
        let (rows, answered) = pull::fetch(&asker.net, a.net.node(), question, Hlc::MAX).await.unwrap();
        assert_eq!((rows.len(), answered.heads), (10, held.clone()));
    }
    drop((silent, first));
    for node in nodes {
        node.stop().await;
    }
}
