//! Where a video is said to be, and what is there.

use super::*;

/// The places and forms of a video's address.
pub(super) fn places() -> Vec<Fault> {
    let mut faults = Vec::new();
    for (name, fields) in [
        ("video_url", r#""video_url":"$U""#),
        ("result.video_url", r#""result":{"video_url":"$U"}"#),
        ("result.outputs", r#""result":{"outputs":["$U"]}"#),
        (
            "result.outputs of objects",
            r#""result":{"outputs":[{"url":"$U"}]}"#,
        ),
        ("result.url", r#""result":{"url":"$U"}"#),
        ("result_url flat", r#""result_url":"$U""#),
        ("data.result_url", r#""data":{"result_url":"$U"}"#),
        ("url", r#""url":"$U""#),
        (
            "video.url in an object",
            r#""video":{"url":"$U","duration":6}"#,
        ),
        ("output.url", r#""output":{"url":"$U"}"#),
        ("output", r#""output":"$U""#),
        ("outputs", r#""outputs":[{"video_url":"$U"}]"#),
        ("output_url flat", r#""output_url":"$U""#),
        ("metadata.url", r#""metadata":{"url":"$U"}"#),
        ("fail_reason", r#""fail_reason":"$U""#),
        (
            "url after empty ones",
            r#""video_url":"","result":{"video_url":null,"outputs":[]},"url":" $U ""#,
        ),
    ] {
        // Nowhere else: were the place not known, nothing would be found.
        faults.push(
            fault(format!("place {name}"))
                .poll([ready(&fields.replace("$U", LINK))])
                .content([gone()]),
        );
    }
    faults.extend([
        fault("place relative")
            .poll([ready(r#""video_url":"/x/$JOB/v""#)])
            .content([gone()]),
        fault("place content only").poll([ready(r#""progress":100"#)]),
        fault("place content by its own address")
            .poll([ready(r#""video_url":"$BASE/v1/videos/$ID/content""#)]),
        fault("place content of another")
            .poll([ready(r#""video_url":"$CDN/v1/videos/upstream_1/content""#)]),
    ]);
    for (name, url) in [
        ("file", "file:///etc/passwd"),
        ("data", "data:video/mp4;base64,AAAA"),
        ("ftp", "ftp://127.0.0.1/a.mp4"),
        ("link-local", "http://169.254.169.254/latest/meta-data"),
        ("link-local by a number", "http://2852039166/"),
        ("link-local in v6", "http://[fe80::1]/v.mp4"),
        ("link-local mapped", "http://[::ffff:169.254.169.254]/v.mp4"),
        ("unspecified", "http://0.0.0.0/v.mp4"),
        ("multicast", "http://224.0.0.1/v.mp4"),
        ("no address", "http://"),
    ] {
        faults.push(
            fault(format!("never fetched {name}"))
                .poll([ready(&format!(r#""video_url":"{url}""#))]),
        );
        faults.push(fault(format!("never followed {name}")).link([to(302, url)]));
    }
    faults
}

/// Downloads.
pub(super) fn downloads() -> Vec<Fault> {
    let fresh = || {
        [
            json(200, READY),
            json(200, &READY.replace("/v\"", "/fresh\"")),
        ]
    };
    let bare = film_answer;
    let mut faults = vec![
        fault("film moov last").film(Layout::MoovLast),
        fault("film 64 bits").film(Layout::Wide),
        fault("film fragmented").film(Layout::Fragmented),
        fault("film open ended").film(Layout::OpenEnded).link([bare().framed(Framing::Chunked)]),
        fault("film too short").seconds(2).says("asked for 6 s"),
        fault("link in chunks").link([bare().framed(Framing::Chunked)]),
        fault("link to the connection's end").link([bare().framed(Framing::Close)]),
        fault("link called text/plain").link([status(200).typed("text/plain", Body::Film)]),
        fault("link needs the key").poll([ready(r#""video_url":"$BASE/x/$JOB/own""#)]).file("own", [whole().with_key()]).content([gone()]),
        fault("link dead, fresh link").poll(fresh()).link([gone()]).content([gone()]).file("fresh", [whole()]),
        fault("link dead, fresh link cut").poll(fresh()).link([gone()]).content([gone()]).file("fresh", [whole().ends(End::Fin(40)), whole()]).resumes(),
        fault("link dead, same link later").link([gone(), whole()]).content([gone()]),
        fault("link cut and dead, fresh link").poll(fresh()).link([bare().ends(End::Fin(40)), gone()]).content([gone()]).file("fresh", [whole()]),
        fault("link cut, resumed").link([whole().ends(End::Fin(40)), whole()]).resumes(),
        fault("link reset, resumed").link([whole().ends(End::Reset(70)), whole()]).resumes(),
        fault("link cut thrice, resumed").link([whole().ends(End::Fin(30)), whole().ends(End::Fin(30)), whole().ends(End::Fin(30)), whole()]).resumes(),
        fault("link stalls, resumed").link([whole().ends(End::Stall(40)), whole()]).resumes(),
        fault("link stalls before a byte").link([whole().ends(End::NoByteStall), whole()]).content([gone()]),
        fault("link cut, no ranges").link([bare().header("etag", "\"v1\"").ends(End::Fin(40)), bare()]).resumes(),
        fault("link cut, no tag").link([bare().ends(End::Fin(40)), bare()]).content([gone()]),
        fault("link cut, weak tag").link([bare().ranges("W/\"v1\"").ends(End::Fin(40)), bare().ranges("W/\"v1\"")]).content([gone()]),
        fault("link cut, changed tag").link([status(200).body(Body::Bytes(film(Layout::MoovFirst, "old", 6, LENGTH))).ranges("\"v0\"").ends(End::Fin(60)), whole()]).resumes(),
        fault("link cut, then 416").link([whole().ends(End::Fin(40)), status(416), whole()]).resumes(),
        fault("link cut, then another range").link([whole().ends(End::Fin(40)), status(206).body(Body::FilmFrom(7)).header("content-range", "bytes 7-59999/60000"), whole()]).resumes(),
        fault("link cut, then a range of another length").link([whole().ends(End::Fin(40)), status(206).body(Body::FilmFrom(100)).header("content-range", "bytes 24000-9/10"), whole()]).resumes(),
        fault("link cut, then a page").link([whole().ends(End::Fin(40)), html(200), whole()]).content([gone()]),
        fault("link cut cleanly by its length").link([bare().body(Body::FilmUpTo(40)), whole()]).content([gone()]),
        fault("link cut cleanly in chunks").link([bare().framed(Framing::Chunked).body(Body::FilmUpTo(40)), whole()]).content([gone()]),
        fault("link cut cleanly at the end").link([bare().framed(Framing::Close).ends(End::Fin(40)), whole()]).content([gone()]),
        fault("link cut by a byte").film(Layout::MoovLast).link([bare().framed(Framing::Close).ends(End::Fin(99)), whole()]).content([gone()]),
        fault("link cut in the last chunk").link([bare().framed(Framing::Chunked).ends(End::Fin(100)), bare()]),
        fault("link cut between fragments").film(Layout::OpenEnded).link([bare().framed(Framing::Close).ends(End::Fin(99)), bare().framed(Framing::Close)]).content([gone()]),
        fault("link length too small").link([bare().framed(Framing::LengthOff(-500)), whole()]).content([gone()]),
        fault("link length too large").link([bare().framed(Framing::LengthOff(500)), whole()]).content([gone()]),
        fault("link is a page").link([status(200).typed("video/mp4", Body::Text("<html>log in</html>".to_owned()))]),
        fault("link is a word").link([status(200).typed("video/mp4", Body::Text("string".to_owned()))]),
        fault("link is empty").link([status(200).typed("video/mp4", Body::Text(String::new()))]),
        fault("link is 8 bytes").link([status(200).typed("video/mp4", Body::Bytes(b"\0\0\0\x08ftyp".to_vec()))]),
        fault("link is an image").link([status(200).typed("video/mp4", Body::Bytes(b"\x89PNG\r\n\x1a\n0123456789".to_vec()))]),
        fault("link is a film without a picture").link([status(200).typed("video/mp4", Body::Bytes(b"\0\0\0\x10ftypisom\0\0\0\0\0\0\0\x08mdat".to_vec()))]),
        fault("link is JSON with the place").link([json(200, r#"{"url":"$CDN/x/$JOB/real"}"#)]).file("real", [whole()]).content([gone()]),
        fault("link is JSON in a circle").link([json(200, &format!(r#"{{"url":"{LINK}"}}"#))]),
        fault("link is larger than allowed").link([bare().framed(Framing::LengthOff(2 << 20))]),
        fault("link never ends").link([status(200).body(Body::Endless(film(Layout::MoovFirst, "x", 6, 5_000))).framed(Framing::Close)]),
        fault("link never ends in chunks").link([status(200).body(Body::Endless(film(Layout::MoovFirst, "x", 6, 5_000))).framed(Framing::Chunked)]),
        fault("link is a page without end").link([status(200).body(Body::Endless(b"<html>".to_vec())).framed(Framing::Close)]),
        fault("link redirected").link([to(302, "$CDN/x/$JOB/real")]).file("real", [whole()]).content([gone()]),
        fault("link redirected by a relative address").link([to(307, "real")]).file("real", [whole()]).content([gone()]),
        fault("link redirected in a circle").link([to(302, "$CDN/x/$JOB/b")]).file("b", [to(302, LINK)]),
        fault("link redirected to itself").link([to(301, LINK)]),
        fault("link redirected to nowhere").link([status(302)]),
        fault("link redirected without end").link([to(302, "$CDN/x/$JOB/h1")]).file("h1", [to(302, "h2")]).file("h2", [to(302, "h3")]).file("h3", [to(302, "h4")])
            .file("h4", [to(302, "h5")]).file("h5", [to(302, "h6")]).file("h6", [to(302, "h7")]).file("h7", [to(302, "h8")]).file("h8", [to(302, "h9")]).file("h9", [to(302, "h10")])
            .file("h10", [to(302, "h11")]).file("h11", [whole()]),
        fault("content redirected without the key").poll([ready(r#""progress":100"#)]).content([to(302, "$CDN/x/$JOB/v").with_key()]),
        fault("content redirected with the key").poll([ready(r#""progress":100"#)]).content([to(302, "/x/$JOB/own").with_key()]).file("own", [whole().with_key()]),
        fault("content redirected away and back").poll([ready(r#""progress":100"#)]).content([to(302, "$CDN/x/$JOB/out").with_key()]).file("out", [to(302, "$BASE/x/$JOB/v")]),
        fault("content is JSON with the place").poll([ready(r#""progress":100"#)]).content([json(200, r#"{"id":"$ID","video_url":"$CDN/x/$JOB/v"}"#)]),
        fault("content 400 too early").poll([ready(r#""progress":100"#)]).content([json(400, r#"{"error":{"message":"Task is not completed yet, current status: IN_PROGRESS"}}"#), bare()]),
        fault("content 404 too early").poll([ready(r#""progress":100"#)]).content([json(404, r#"{"error":{"message":"Video is not ready yet"}}"#), bare()]),
        fault("content an error called video").poll([ready(r#""progress":100"#)]).content([status(200).typed("video/mp4", Body::Text(r#"{"error":{"message":"not ready"}}"#.to_owned())), bare()]),
        fault("content cut").poll([ready(r#""progress":100"#)]).content([bare().ends(End::Fin(40)), bare()]),
        fault("content cut in chunks").poll([ready(r#""progress":100"#)]).content([bare().framed(Framing::Chunked).body(Body::FilmUpTo(40)), bare()]),
        fault("fresh link, task says running").poll([json(200, READY), running(), json(200, READY)]).link([gone(), whole()]).content([gone()]),
    ];
    for code in [400, 401, 403, 404, 410, 451] {
        faults.push(fault(format!("link {code}")).link([html(code)]));
    }
    for code in [408, 425, 429, 500, 502, 503, 504, 520] {
        faults.push(
            fault(format!("link {code} for a while"))
                .link([html(code), whole()])
                .content([html(502)]),
        );
    }
    faults
}
