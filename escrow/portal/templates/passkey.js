// Passkeys (WebAuthn) and the showing of passwords. Nothing else on the page needs this.
(() => {
"use strict";
for (const b of document.querySelectorAll("[data-show]")) {
  const field = document.getElementById(b.dataset.show), show = b.textContent;
  b.hidden = false;
  b.onclick = () => {
    const shown = field.type === "password";
    field.type = shown ? "text" : "password";
    b.textContent = shown ? b.dataset.hide : show;
  };
  field.form.addEventListener("submit", () => { field.type = "password"; });
}
const form = document.querySelector("form[data-passkey]");
if (!form || !window.PublicKeyCredential || !navigator.credentials) return;
const create = form.dataset.passkey === "create";
const offer = form.querySelector("[data-offer]"), use = form.querySelector("[data-use]"), problem = form.querySelector("[data-problem]");
if (!offer) return;
offer.hidden = false;
for (const e of form.querySelectorAll("[data-without]")) e.hidden = true;

const bytes = s => Uint8Array.from(atob(s.replace(/-/g, "+").replace(/_/g, "/")), c => c.charCodeAt(0));
const text = b => btoa(String.fromCharCode(...new Uint8Array(b))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
const code = form.querySelector("[data-code]");
// ask shows the field for a code, or that the code was right already.
const ask = needed => {
  if (!code) return;
  code.hidden = !needed;
  code.querySelector("input").disabled = !needed;
  form.querySelector("[data-proven]").hidden = needed;
  if (needed) form.elements.ceremony.value = "";
  for (const e of document.querySelectorAll("[data-another]")) e.hidden = !needed;
};
const tell = (words, name) => {
  problem.textContent = words;
  if (name === "answer") ask(true);
  const field = name && form.querySelector('[name="' + name + '"]');
  if (!field) return problem.focus();
  field.setAttribute("aria-invalid", "true");
  field.setAttribute("aria-describedby", (problem.id = "passkey-problem"));
  field.focus();
};

// begin asks the server for a ceremony; null where it told why there is none.
const begin = async () => {
  const body = new URLSearchParams({ceremony: create ? form.elements.ceremony.value : ""});
  if (code) body.set("answer", form.elements.answer.value);
  const r = await fetch(form.dataset.begin, {method: "POST", body, headers: {Accept: "application/json"}});
  if (r.status === 404 || r.status === 410 || r.redirected) return location.reload(), null;
  if (!(r.headers.get("Content-Type") || "").includes("json")) throw new Error("no answer");
  const a = await r.json();
  if (a.go) return location.assign(a.go), null;
  if (a.problem) return tell(a.problem, a.field), null;
  form.elements.ceremony.value = a.ceremony;
  ask(false);
  return decoded(a.options);
};
const decoded = o => {
  o = o.publicKey || o;
  o.challenge = bytes(o.challenge);
  if (o.user) o.user.id = bytes(o.user.id);
  for (const c of [...(o.excludeCredentials || []), ...(o.allowCredentials || [])]) c.id = bytes(c.id);
  return o;
};

// end sends what the passkey answered, as the form does.
const end = c => {
  const r = c.response, j = {};
  for (const k of ["clientDataJSON", "attestationObject", "authenticatorData", "signature", "userHandle"]) if (r[k]) j[k] = text(r[k]);
  if (r.getTransports) j.transports = r.getTransports();
  form.elements.response.value = JSON.stringify({id: c.id, rawId: text(c.rawId), type: c.type, response: j,
    authenticatorAttachment: c.authenticatorAttachment || undefined, clientExtensionResults: c.getClientExtensionResults()});
  form.submit(); // no field need be filled
};

let waiting; // for a passkey chosen in the list that the password field offers
const run = async conditional => {
  if (waiting) waiting.abort();
  const mine = waiting = new AbortController();
  use.disabled = !conditional;
  problem.textContent = "";
  for (const f of form.querySelectorAll("[aria-invalid]")) f.removeAttribute("aria-invalid");
  try {
    const publicKey = conditional ? decoded(JSON.parse(form.dataset.options)) : await begin();
    if (publicKey && !mine.signal.aborted) {
      const o = {publicKey, signal: mine.signal};
      if (conditional) o.mediation = "conditional";
      end(await navigator.credentials[create ? "create" : "get"](o));
    }
  } catch (e) {
    if (mine.signal.aborted || conditional) return;
    const d = form.dataset;
    tell(e.name === "NotAllowedError" ? d.cancelled : create && e.name === "InvalidStateError" ? d.known : d.failed);
  } finally {
    if (waiting === mine) use.disabled = false;
  }
};
use.onclick = () => run(false);
window.addEventListener("pageshow", e => { if (e.persisted) form.elements.response.value = ""; });
// The list that the password field offers has passkeys too, by the ceremony that the
// page came with.
if (form.dataset.options && form.querySelector("[type=password]") && PublicKeyCredential.isConditionalMediationAvailable)
  PublicKeyCredential.isConditionalMediationAvailable().then(can => { if (can && !waiting) run(true); });
})();
