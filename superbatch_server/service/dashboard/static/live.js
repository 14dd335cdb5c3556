// Keeps a page current: fetches its live part every two seconds and replaces only the blocks that changed, so that
// focus, scrolling and an opened <details> elsewhere stay. Without scripts the page is complete, only not live.
"use strict";

const EVERY_MS = 2000;
const main = document.getElementById("main");
const note = document.getElementById("live-note");
let etag = "";

function say(text) {
  note.hidden = !text;
  if (note.textContent !== text) note.textContent = text;
}

function replaceChanged(html) {
  const fresh = document.createElement("template");
  fresh.innerHTML = html;
  const incoming = [...fresh.content.children];
  const shown = [...main.children];
  const isSameShape = incoming.length === shown.length && incoming.every((block, i) => block.id === shown[i].id);
  if (!isSameShape) {
    main.replaceChildren(...incoming);
    return;
  }
  incoming.forEach((block, i) => {
    for (const details of shown[i].querySelectorAll("details[open]")) {
      block.querySelector(`#${CSS.escape(details.id)}`)?.setAttribute("open", "");
    }
    if (!block.isEqualNode(shown[i])) shown[i].replaceWith(block);
  });
}

async function refresh() {
  if (document.hidden) return true;
  try {
    const answer = await fetch(main.dataset.live, { headers: etag ? { "If-None-Match": etag } : {} });
    if (answer.status === 401 || answer.status === 404) {
      location.reload();
      return false;
    }
    say(answer.ok || answer.status === 304 ? "" : "The service answers with an error; trying again.");
    if (answer.status !== 200) return true;
    etag = answer.headers.get("ETag") ?? "";
    replaceChanged(await answer.text());
    return answer.headers.get("X-Live") !== "over";
  } catch {
    say("The service does not answer; trying again.");
    return true;
  }
}

async function follow() {
  if (await refresh()) setTimeout(follow, EVERY_MS);
}

if (main.dataset.live) setTimeout(follow, EVERY_MS);
