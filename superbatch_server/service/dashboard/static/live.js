// Keeps a page current: fetches its live part every two seconds and changes only what differs, node by node, so that
// focus, selection, scrolling and an opened <details> stay. Rests while the tab is hidden, tries again ever more slowly
// while the service does not answer, and says since when the page is old. Without scripts pages are complete.
"use strict";

const EVERY_MS = 2000;
const SLOWEST_MS = 30000;
const PATIENCE_MS = 15000;
const main = document.getElementById("main");
const note = document.getElementById("live-note");
let etag = "";
let timer = 0;
let failures = 0;
let isOver = !main.dataset.live;
let isAsking = false;
let currentAt = new Date();

function say(text) {
  note.hidden = !text;
  if (note.textContent !== text) note.textContent = text;
}

function change(shown, fresh) {
  if (shown.nodeType !== Node.ELEMENT_NODE) {
    if (shown.data !== fresh.data) shown.data = fresh.data;
    return;
  }
  if (shown.isEqualNode(fresh)) return;
  for (const { name } of [...shown.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") shown.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (shown.getAttribute(name) !== value) shown.setAttribute(name, value);
  }
  changeChildren(shown, fresh);
}

// Children with an id are the same thing wherever they stand; the others are compared in order.
function changeChildren(shown, fresh) {
  const wanted = new Set([...fresh.children].map((child) => child.id));
  const named = new Map();
  for (const child of [...shown.children]) {
    if (child.id && !wanted.has(child.id)) child.remove();
    else if (child.id) named.set(child.id, child);
  }
  let at = shown.firstChild;
  for (const child of [...fresh.childNodes]) {
    const known = named.get(child.id);
    if (known && known.nodeName === child.nodeName) {
      // What stands before it goes, for an element that is moved would lose the focus.
      while (at && at !== known && !at.id) at = removed(at);
      if (known === at) at = at.nextSibling;
      else shown.insertBefore(known, at);
      change(known, child);
    } else if (!known && at && !at.id && at.nodeName === child.nodeName) {
      const next = at.nextSibling;
      if (child.id) at.replaceWith(child);
      else change(at, child);
      at = next;
    } else {
      shown.insertBefore(child, at);
    }
  }
  while (at) at = removed(at);
}

function removed(node) {
  const next = node.nextSibling;
  node.remove();
  return next;
}

function isAtEnd(block) {
  return block.scrollTop + block.clientHeight >= block.scrollHeight - 4;
}

function toEnd(block) {
  block.scrollTop = block.scrollHeight;
}

async function ask() {
  const answer = await fetch(main.dataset.live, {
    headers: etag ? { "If-None-Match": etag } : {},
    signal: AbortSignal.timeout(PATIENCE_MS),
  });
  if (answer.status === 401 || answer.status === 404) {
    isOver = true;
    location.reload();
    return;
  }
  if (!answer.ok && answer.status !== 304) throw new Error(String(answer.status));
  if (answer.status === 200) {
    const html = await answer.text();
    const fresh = document.createElement("template");
    fresh.innerHTML = html;
    const tails = [...document.querySelectorAll("[data-tail]")].filter(isAtEnd);
    changeChildren(main, fresh.content);
    tails.forEach(toEnd);
    etag = answer.headers.get("ETag") ?? "";
  }
  isOver = answer.headers.get("X-Live") === "over";
}

async function follow() {
  clearTimeout(timer);
  if (isOver || isAsking || document.hidden) return;
  isAsking = true;
  try {
    await ask();
    failures = 0;
    currentAt = new Date();
    say("");
  } catch {
    failures += 1;
    say(`Not current since ${currentAt.toLocaleTimeString()}: the service does not answer. Trying again.`);
  }
  isAsking = false;
  timer = setTimeout(follow, Math.min(SLOWEST_MS, EVERY_MS * 2 ** Math.min(failures, 5)));
}

if (!location.hash) document.querySelectorAll("[data-tail]").forEach(toEnd);
if (!isOver) {
  document.addEventListener("visibilitychange", follow);
  window.addEventListener("online", follow);
  timer = setTimeout(follow, EVERY_MS);
}
