// Helps with a reply: keeps the text while it is written, and uploads files as soon
// as they are chosen. All of this the form does by itself too, without the script.
(() => {
  const form = document.getElementById("reply");
  if (!form || !window.fetch || !window.FormData) return;
  const el = id => document.getElementById(id), say = s => { el("say").textContent = s; };
  const said = (key, name) => form.dataset[key].replace("{}", name);
  const text = form.elements.text, input = el("files"), list = el("uploads");
  const state = () => text.value + "\0" + (form.elements.all ? form.elements.all.value : "");
  let kept = state(), timer, saving, again, stopped, trouble, waiting, leaving;
  const queue = [];
  let current;

  const fields = (...names) => {
    const data = new FormData();
    for (const name of names) data.append(name, form.elements[name] ? form.elements[name].value : "0");
    return data;
  };
  const header = ["X-Requested-With", "postseal"];
  const problem = html => { el("problems").innerHTML = html; };

  // take what the server says, of the draft as it is kept now.
  const take = answer => {
    form.elements.draft.value = answer.draft;
    if (answer.to) { leaving = true; location.assign(answer.to); return; }
    if (answer.attached) el("attached").innerHTML = answer.attached;
    if (answer.stop) { stopped = true; waiting = null; }
    if (answer.problem) problem(answer.problem);
  };

  const save = last => {
    clearTimeout(timer);
    if (stopped || leaving || state() === kept) return;
    if (saving) { again = true; return; }
    const value = state();
    saving = true;
    fetch(form.action, {
      method: "POST", headers: [header], body: fields("draft", "was", "since", "all", "text"),
      credentials: "same-origin", keepalive: last === true && value.length < 20000,
    }).then(r => r.json()).then(answer => {
      form.elements.was.value = answer.was;
      trouble = !!answer.problem;
      if (!trouble) {
        kept = value;
        el("kept").className = "soft";
        el("kept").textContent = answer.saved;
        problem("");
      }
      take(answer);
      if (trouble && !stopped) timer = setTimeout(save, 20000);
    }).catch(() => {
      trouble = true;
      el("kept").textContent = form.dataset.unsaved;
      timer = setTimeout(save, 10000);
    }).finally(() => {
      saving = false;
      if (again) { again = false; save(); }
    });
  };
  form.addEventListener("input", e => {
    if (e.target === input) return;
    clearTimeout(timer);
    timer = setTimeout(save, 2500);
  });
  document.addEventListener("visibilitychange", () => { if (document.visibilityState === "hidden") save(true); });

  const button = (label, name, act) => {
    const b = document.createElement("button");
    b.type = "button"; b.className = "second"; b.textContent = label;
    if (name) b.setAttribute("aria-label", name);
    b.addEventListener("click", act);
    return b;
  };

  const done = item => {
    item.row.remove();
    if (current === item) { current = null; next(); }
  };

  const next = () => {
    if (current) return;
    current = queue.shift();
    if (!current) {
      const b = waiting;
      waiting = null;
      if (b && b.isConnected) form.requestSubmit(b);
      return;
    }
    const item = current, request = new XMLHttpRequest(), data = fields("draft");
    data.append("files", item.file, item.file.name);
    item.request = request;
    request.open("POST", form.action);
    request.setRequestHeader(...header);
    request.upload.onprogress = e => {
      if (!e.lengthComputable) return;
      item.bar.value = e.loaded / e.total;
      item.percent.textContent = Math.floor(100 * e.loaded / e.total) + " %";
    };
    const failed = () => {
      say(said("failed", item.file.name));
      waiting = null;
      item.request = null;
      item.bar.hidden = item.percent.hidden = true;
      item.state.textContent = said("failed", item.file.name);
      if (!item.retry) {
        item.retry = button(form.dataset.again, "", () => {
          item.retry.remove(); item.retry = null;
          item.bar.hidden = item.percent.hidden = false;
          item.state.textContent = item.file.name;
          queue.push(item); next();
        });
        item.row.append(item.retry);
      }
      current = null;
      next();
    };
    request.onload = () => {
      let answer;
      try { answer = JSON.parse(request.responseText); } catch { failed(); return; }
      if (answer.problem) waiting = null; else if (!trouble) problem("");
      take(answer);
      if (answer.problem && !answer.attached) { failed(); return; }
      if (!answer.problem) say(said("attached", item.file.name));
      done(item);
    };
    request.onerror = request.ontimeout = failed;
    say(said("uploading", item.file.name));
    request.send(data);
  };

  input.addEventListener("change", () => {
    for (const file of input.files) {
      const row = document.createElement("li"), state = document.createElement("bdi"), bar = document.createElement("progress"), percent = document.createElement("span");
      const item = { file, row, state, bar, percent };
      state.textContent = file.name;
      bar.max = 1; bar.value = 0;
      bar.setAttribute("aria-label", said("uploading", file.name));
      percent.className = "soft";
      row.append(state, bar, percent, button(form.dataset.stop, said("cancel", file.name), () => {
        const i = queue.indexOf(item);
        if (i >= 0) queue.splice(i, 1);
        if (item.request) { item.request.abort(); waiting = null; }
        done(item);
        input.focus();
      }));
      list.append(row);
      if (file.size > +form.dataset.most) {
        state.textContent = said("large", file.name);
        say(state.textContent);
        bar.remove(); percent.remove();
        row.lastChild.textContent = form.dataset.remove;
        row.lastChild.removeAttribute("aria-label");
        continue;
      }
      queue.push(item);
    }
    input.value = ""; // the form must not bring them once more
    next();
  });

  form.addEventListener("submit", e => {
    if (leaving) { e.preventDefault(); return; } // pressed twice
    if (current || queue.length) {
      e.preventDefault();
      waiting = e.submitter || form.querySelector("button[value=save]");
      say(form.dataset.wait);
      return;
    }
    clearTimeout(timer);
    leaving = true;
  });
  addEventListener("pageshow", e => { if (e.persisted) leaving = false; });
  addEventListener("beforeunload", e => { if (!leaving && (current || queue.length || trouble && state() !== kept)) e.preventDefault(); });
})();
