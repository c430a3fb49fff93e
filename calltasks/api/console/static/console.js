// What makes a page of the console live. Without it everything works; one has to load the page again to see it move.
"use strict";

// An address that signs in: what stands behind # never leaves the browser, and does not stay in its history. Who is
// signed in already is asked before another takes her place.
const token = document.getElementById("token");
if (token && location.hash.length > 1) {
  token.value = decodeURIComponent(location.hash.slice(1));
  history.replaceState(null, "", location.pathname);
  if (!("signedIn" in token.form.dataset)) token.form.requestSubmit();
}

const PARTS = ["campaigns", "standing"];
const EVERY = 4000;
const PATIENCE = 30000;

async function renew() {
  let live = true;
  try {
    if (!document.hidden) live = await fetched();
  } catch {
    // The network is away for a moment; the next turn asks again.
  }
  // Only after the answer: a slow server is not asked by more and more requests at once.
  if (live) setTimeout(renew, EVERY);
}

async function fetched() {
  const answer = await fetch(location.href, { headers: { accept: "text/html" }, signal: AbortSignal.timeout(PATIENCE) });
  if (answer.redirected) return false;
  if (!answer.ok) return true;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const id of PARTS) {
    const there = document.getElementById(id);
    const then = fresh.getElementById(id);
    if (there && then && !there.contains(document.activeElement)) there.replaceWith(document.adoptNode(then));
  }
  return "live" in fresh.body.dataset;
}

if ("live" in document.body.dataset) setTimeout(renew, EVERY);

// Where a call is shown, one key for the call before and behind, and for each button that names one; for whoever wants
// keys. A key that is held down says nothing more: it would confirm the next calls unread.
const keys = document.getElementById("keys");
if (keys) {
  keys.checked = localStorage.getItem("keys") !== "off";
  keys.closest("label").hidden = false;
  keys.addEventListener("change", () => localStorage.setItem("keys", keys.checked ? "on" : "off"));
  document.addEventListener("keydown", (event) => {
    if (!keys.checked || event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    // Where a key means something else already: it writes, chooses, plays, scrolls.
    if (event.target.closest("input:not(#keys), select, textarea, audio, .scroll")) return;
    const rel = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
    const wanted = rel ? `a[rel="${rel}"]` : `[data-key="${CSS.escape(event.key.toLowerCase())}"]`;
    document.querySelector(wanted)?.click();
  });
}
