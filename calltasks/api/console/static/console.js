// What makes a page of the console live. Without it everything works; one has to load the page again to see it move.
"use strict";

// An address that signs in: what stands behind # never leaves the browser, and does not stay in its history.
const token = document.getElementById("token");
if (token && location.hash.length > 1) {
  token.value = decodeURIComponent(location.hash.slice(1));
  history.replaceState(null, "", location.pathname);
  token.form.requestSubmit();
}

const PARTS = ["campaigns", "standing"];
const EVERY = 4000;

async function renew() {
  if (document.hidden) return;
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" } });
    if (!answer.ok || answer.redirected) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const id of PARTS) {
      const there = document.getElementById(id);
      const then = fresh.getElementById(id);
      if (there && then && !there.contains(document.activeElement)) there.replaceWith(document.adoptNode(then));
    }
    if (!("live" in fresh.body.dataset)) clearInterval(timer);
  } catch {
    // The network is away for a moment; the next turn asks again.
  }
}

const timer = "live" in document.body.dataset ? setInterval(renew, EVERY) : 0;

// One key for the call before and behind, and for each other link or button that names one.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA|AUDIO)$/.test(event.target.tagName)) return;
  const rel = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
  const wanted = rel ? document.querySelector(`a[rel="${rel}"]`) : document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
  if (wanted) wanted.click();
});
