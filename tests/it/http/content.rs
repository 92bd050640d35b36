//! The video itself, whole and in part.

use super::*;

async fn fetch(server: &Server, id: JobId, headers: &[(&str, &str)]) -> Answer {
    let mut request = server.request(Method::GET, &format!("/v1/videos/video_{id}/content"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    answer(request).await
}

#[tokio::test]
async fn a_video_is_sent_whole_and_in_part() {
    let server = Server::start().await;
    let content: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let id = server.done(&content).await;
    let path = format!("/v1/videos/video_{id}/content");
    let bytes = async |range: Option<&str>| {
        let mut request = server.request(Method::GET, &path);
        if let Some(range) = range {
            request = request.header("range", range);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let shown = response.headers().get("content-range").cloned();
        let shown = shown.map(|value| value.to_str().unwrap().to_owned());
        (status, shown, response.bytes().await.unwrap())
    };
    let (status, _, whole) = bytes(None).await;
    assert_eq!((status, whole.len()), (200, content.len()));
    assert!(whole == content);
    let last = content.len() - 1;
    for (range, first, end) in [
        ("bytes=0-0", 0, 0),
        ("bytes=1000000-1999999", 1_000_000, 1_999_999),
        ("bytes=3999990-", 3_999_990, last),
        ("bytes=-7", last - 6, last),
        ("bytes=5-99999999999", 5, last),
    ] {
        let (status, shown, part) = bytes(Some(range)).await;
        assert_eq!(status, 206, "{range}");
        assert_eq!(
            shown.unwrap(),
            format!("bytes {first}-{end}/{}", content.len())
        );
        assert!(part == content[first..=end], "{range}");
    }
    for ignored in ["bytes=0-1,4-5", "lines=0-1", "bytes=5-3", "{}"] {
        let (status, _, whole) = bytes(Some(ignored)).await;
        assert_eq!((status, whole.len()), (200, content.len()), "{ignored}");
    }
    for beyond in ["bytes=4000000-", "bytes=-0"] {
        let refused = fetch(&server, id, &[("range", beyond)]).await;
        check_error(&refused, 416, "range_not_satisfiable");
        assert_eq!(refused.header("content-range"), "bytes */4000000");
    }
}

#[tokio::test]
async fn a_tag_says_whether_it_is_the_same_file() {
    let server = Server::start().await;
    let id = server.done(b"0123456789").await;
    let whole = fetch(&server, id, &[]).await;
    let tag = whole.header("etag").to_owned();
    let sha256 = &server
        .store
        .job(id)
        .await
        .unwrap()
        .unwrap()
        .file
        .unwrap()
        .sha256;
    assert_eq!(tag, format!("\"{sha256}\""));
    assert_eq!(whole.header("content-type"), "video/mp4");
    assert_eq!(whole.header("accept-ranges"), "bytes");
    assert_eq!(
        whole.header("content-disposition"),
        format!("inline; filename=\"video_{id}.mp4\"")
    );

    let ranged = |with: &str| {
        let with = with.to_owned();
        let server = &server;
        async move { fetch(server, id, &[("range", "bytes=2-3"), ("if-range", &with)]).await }
    };
    assert_eq!(ranged(&tag).await.text, "23");
    assert_eq!(ranged("\"another\"").await.text, "0123456789");
    assert_eq!(
        ranged("Sun, 06 Nov 1994 08:49:37 GMT").await.text,
        "0123456789"
    );
    assert_eq!(
        fetch(&server, id, &[("if-none-match", &tag)]).await.status,
        304
    );
    assert_eq!(
        fetch(&server, id, &[("if-none-match", "\"x\"")])
            .await
            .status,
        200
    );

    let path = format!("/v1/videos/{id}/content");
    let head = answer(server.request(Method::HEAD, &path)).await;
    assert_eq!(
        (head.header("content-length"), head.text.as_str()),
        ("10", "")
    );
    assert_eq!(head.header("etag"), tag);
}

#[tokio::test]
async fn what_cannot_be_sent_is_told_apart() {
    let server = Server::start().await;
    let waiting = server.new_job().await;
    check_error(&fetch(&server, waiting, &[]).await, 409, "video_not_ready");
    server.happen(waiting, accepted(waiting)).await;
    check_error(&fetch(&server, waiting, &[]).await, 409, "video_not_ready");
    let message = "moderation".to_owned();
    server
        .happen(waiting, vec![Event::TaskFailed { message }])
        .await;
    let failed = fetch(&server, waiting, &[]).await;
    check_error(&failed, 404, "video_failed");
    assert!(failed.error("message").contains("moderation"));
    let cancelled = server.new_job().await;
    server.happen(cancelled, vec![Event::Cancelled]).await;
    check_error(
        &fetch(&server, cancelled, &[]).await,
        404,
        "video_cancelled",
    );

    let id = server.done(b"video").await;
    for variant in ["thumbnail", "spritesheet", ""] {
        let refused = server
            .get(&format!("/v1/videos/{id}/content?variant={variant}"))
            .await;
        assert_eq!(
            (refused.status.as_u16(), refused.error("param")),
            (400, "variant")
        );
    }
    let path = server.folder.path().join(format!("videos/{id}.mp4"));
    std::fs::write(&path, b"another video").unwrap();
    check_error(&fetch(&server, id, &[]).await, 404, "file_not_available");
    std::fs::remove_file(&path).unwrap();
    check_error(&fetch(&server, id, &[]).await, 404, "file_not_available");
}

/// Whoever may write to the table must not read the daemon's files through it.
#[tokio::test]
async fn no_file_outside_of_the_folder_is_sent() {
    let server = Server::start().await;
    let id = server.new_job().await;
    let (inside, mut file) = server.video(id, b"secret");
    let outside = server.folder.path().join("secret");
    std::fs::rename(&inside, &outside).unwrap();
    file.path = outside.display().to_string();
    server
        .happen(id, [accepted(id), saved(file.clone())].concat())
        .await;
    let refused = fetch(&server, id, &[]).await;
    check_error(&refused, 404, "file_not_available");
    assert!(!refused.text.contains("\"secret\""));

    let id = server.new_job().await;
    std::os::unix::fs::symlink(&outside, &inside).unwrap();
    file.path = inside.display().to_string();
    server
        .happen(id, [accepted(id), saved(file)].concat())
        .await;
    check_error(&fetch(&server, id, &[]).await, 404, "file_not_available");
}
