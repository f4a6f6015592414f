// An event while it sells. Everything that is shown comes from the event's stream; the plots are
// drawn from the messages of the last minute, so that a message that was missed and is sent again
// falls into its place.
"use strict";

const MINUTE_MS = 60_000;
const RATE_MS = 2_000;
const STEP_MS = 500;
const AGAIN_MS = 3_000;
const SAY_MS = 15_000;
const MOST_PAGES = 5;

const TEXTS = {
  en: {
    skip: "Skip to the event",
    language: "Language",
    list: "Events",
    choose: "Choose an event",
    eventId: "Event number",
    watch: "Watch",
    noEvent: "No event yet",
    seatsOf: (total) => `of ${total} seats left`,
    soldShare: "Share of seats sold",
    soldText: (sold, share) => `${sold} sold, ${share}`,
    figures: "Figures",
    sales: "Sales per second",
    salesNote: "Bookings less cancellations, whole service, over two seconds",
    perSecond: "a second",
    confirm: "Time to confirm",
    confirmNote: "Until Postgres has it: sales of this API process in the event’s partition",
    ms: "ms",
    depth: "Outbox depth",
    depthNote: "What the event’s partition owes Postgres, whole service",
    entries: "to write",
    refused: "Refusals per second",
    refusedNote: "Of this event by this API process, over two seconds",
    desk: "Box office",
    user: "Your name",
    book: "Book a seat",
    booking: "Booking number",
    cancel: "Cancel it",
    api: "The API",
    metrics: "Metrics",
    idle: "Enter the number of an event",
    connecting: "Connecting…",
    live: "Live",
    ledger: "Redis is away: as of Postgres",
    away: "Connection lost, trying again…",
    unavailable: "Nobody can say at the moment",
    soldOut: "Sold out",
    saidLeft: (left) => `${left} seats left`,
    notFound: "There is no such event.",
    badEvent: "The number of an event is a whole number from 1.",
    noUser: "Enter a name to book for.",
    badBooking: "Enter the number of a booking.",
    confirmed: (id, ms) => `Booked: number ${id}, in Postgres after ${ms} ms.`,
    pending: (id, ms) => `Booked: number ${id}, after ${ms} ms. Postgres will learn of it.`,
    cancelled: (id) => `Booking ${id} is cancelled; the seat is free.`,
    alreadyBooked: (id) => `This name has a seat already: booking ${id}.`,
    failed: "No answer. To try again is safe.",
  },
  ru: {
    skip: "К событию",
    language: "Язык",
    list: "События",
    choose: "Выберите событие",
    eventId: "Номер события",
    watch: "Смотреть",
    noEvent: "Событие не выбрано",
    seatsOf: (total) => `из ${total} мест свободно`,
    soldShare: "Доля проданных мест",
    soldText: (sold, share) => `Продано ${sold}, ${share}`,
    figures: "Показатели",
    sales: "Продажи в секунду",
    salesNote: "Бронирования за вычетом отмен, весь сервис, за две секунды",
    perSecond: "в секунду",
    confirm: "Время подтверждения",
    confirmNote: "До записи в Postgres: продажи этого процесса API в разделе события",
    ms: "мс",
    depth: "Глубина очереди",
    depthNote: "Сколько раздел события ещё не записал в Postgres, весь сервис",
    entries: "к записи",
    refused: "Отказы в секунду",
    refusedNote: "По этому событию в этом процессе API, за две секунды",
    desk: "Касса",
    user: "Ваше имя",
    book: "Забронировать",
    booking: "Номер брони",
    cancel: "Отменить",
    api: "API",
    metrics: "Метрики",
    idle: "Введите номер события",
    connecting: "Подключение…",
    live: "В эфире",
    ledger: "Redis недоступен: по данным Postgres",
    away: "Связь потеряна, пробуем снова…",
    unavailable: "Сейчас данных нет",
    soldOut: "Мест нет",
    saidLeft: (left) => `Свободно мест: ${left}`,
    notFound: "Такого события нет.",
    badEvent: "Номер события: целое число от 1.",
    noUser: "Введите имя, на которое бронировать.",
    badBooking: "Введите номер брони.",
    confirmed: (id, ms) => `Забронировано: номер ${id}, записано в Postgres за ${ms} мс.`,
    pending: (id, ms) => `Забронировано: номер ${id}, за ${ms} мс. Postgres узнает позже.`,
    cancelled: (id) => `Бронь ${id} отменена, место свободно.`,
    alreadyBooked: (id) => `На это имя место уже есть: бронь ${id}.`,
    failed: "Ответа нет. Можно безопасно повторить.",
  },
};

const at = (id) => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)");

let language = "en";
let state = "idle";
let answer = null; // what the desk says: [kind, key, ...], again in the other language if asked
let stream = null;
let again = 0;
let eventId = 0;
let latest = null;
let samples = []; // {at, left, sold, refused, depth, confirm} by time; {at, gap: true} where unknown
let behindMs = null; // how far the server's clock and the way are behind ours, at the least
let refusedBefore = 0;
let refusedAll = 0;
let saidLeft = null;
let saidAt = 0;

const text = (key, ...args) => {
  const found = TEXTS[language][key];
  return typeof found === "function" ? found(...args) : found;
};
const number = (value, digits = 0) =>
  value.toLocaleString(language, { maximumFractionDigits: digits });

// Languages

function speak(chosen) {
  language = chosen;
  document.documentElement.lang = chosen;
  for (const each of document.querySelectorAll("[data-t]")) {
    if (each.id !== "name" || !latest) each.textContent = text(each.dataset.t);
  }
  for (const each of document.querySelectorAll("[data-label]")) {
    each.setAttribute("aria-label", text(each.dataset.label));
  }
  for (const each of document.querySelectorAll("[data-language]")) {
    each.setAttribute("aria-pressed", String(each.dataset.language === chosen));
  }
  const first = at("list").options[0];
  if (first) first.textContent = text("choose");
  enter(state);
  reply();
  show();
}

function firstLanguage() {
  let kept = null;
  try {
    kept = localStorage.getItem("language");
  } catch {
    // storage may be forbidden: then the browser's language each time
  }
  if (kept in TEXTS) return kept;
  return navigator.languages.some((each) => each.toLowerCase().startsWith("ru")) &&
    !navigator.languages[0].toLowerCase().startsWith("en")
    ? "ru"
    : "en";
}

// What is said aloud: what changes the picture at once, the seats now and then

function say(words) {
  if (at("said").textContent !== words) at("said").textContent = words;
}

function enter(next) {
  const before = state;
  state = next;
  at("state").dataset.state = next === "unavailable" ? "away" : next;
  at("state-text").textContent = text(next);
  if (next !== before && next !== "connecting") say(text(next));
}

function sayLeft() {
  const now = Date.now();
  if (latest.available_seats === saidLeft || now - saidAt < SAY_MS) return;
  if (saidLeft !== null) say(text("saidLeft", number(latest.available_seats)));
  saidLeft = latest.available_seats;
  saidAt = now;
}

// The stream

function watch(id) {
  eventId = id;
  latest = null;
  samples = [];
  behindMs = null;
  refusedBefore = refusedAll = 0;
  saidLeft = null;
  at("event").value = id;
  at("list").value = String(id);
  if (at("list").selectedIndex < 0 && at("list").options.length) at("list").selectedIndex = 0;
  history.replaceState(null, "", `?event=${id}`);
  connect();
}

function connect() {
  clearTimeout(again);
  if (stream) stream.close();
  enter("connecting");
  const opened = new EventSource(`api/events/${eventId}/stream`);
  stream = opened;
  opened.addEventListener("availability", hear);
  opened.addEventListener("sold_out", hear);
  opened.addEventListener("unavailable", () => {
    lose();
    enter("unavailable");
  });
  opened.onerror = () => {
    lose();
    enter("away");
    // A browser comes again by itself unless it was refused; then it is for us to do, or to stop.
    if (opened.readyState === EventSource.CLOSED) seeWhy(opened);
  };
}

async function seeWhy(refused) {
  const found = await fetch(`api/events/${eventId}`).catch(() => null);
  if (stream !== refused) return;
  if (found && found.status === 404) {
    stream = null;
    enter("notFound");
    at("state").dataset.state = "away";
    return;
  }
  again = setTimeout(connect, AGAIN_MS);
}

function lose() {
  const last = samples[samples.length - 1];
  if (last && !last.gap) samples.push({ at: Date.now(), gap: true });
}

function hear(message) {
  const told = JSON.parse(message.data);
  const sentAt = Number(message.lastEventId);
  const lateMs = Date.now() - sentAt;
  behindMs = behindMs === null ? lateMs : Math.min(behindMs, lateMs);
  refusedAll += told.refused >= refusedBefore ? told.refused - refusedBefore : told.refused;
  refusedBefore = told.refused;
  const first = latest === null;
  latest = told;
  keep({
    at: sentAt + behindMs,
    left: told.available_seats,
    sold: told.event.total_seats - told.available_seats,
    refused: refusedAll,
    depth: told.outbox_depth,
    confirm: told.confirm_ms,
  });
  enter(told.source === "ledger" ? "ledger" : message.type === "sold_out" ? "soldOut" : "live");
  sayLeft();
  show();
  if (first) say(`${told.event.name}: ${text("saidLeft", number(told.available_seats))}`);
}

function keep(sample) {
  let place = samples.length;
  while (place > 0 && samples[place - 1].at > sample.at) place -= 1;
  samples.splice(place, 0, sample);
  const old = Date.now() - MINUTE_MS - RATE_MS;
  while (samples.length > 1 && samples[1].at < old) samples.shift();
}

// What was so at an instant: the last sample before it, none in a gap

function sampleAt(instant) {
  let low = 0;
  let high = samples.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (samples[middle].at <= instant) low = middle + 1;
    else high = middle;
  }
  const found = samples[low - 1];
  return found && !found.gap ? found : null;
}

function rateAt(instant, of) {
  const now = sampleAt(instant);
  const before = sampleAt(instant - RATE_MS);
  return now && before ? ((now[of] - before[of]) * 1000) / RATE_MS : null;
}

// The page

function show() {
  const name = at("name");
  name.textContent = latest ? latest.event.name : text("noEvent");
  at("left").textContent = latest ? number(latest.available_seats) : "–";
  at("left").toggleAttribute("data-long", at("left").textContent.length > 7);
  at("left-of").textContent = latest ? text("seatsOf", number(latest.event.total_seats)) : "";
  document.title = latest ? `${number(latest.available_seats)} · ${latest.event.name}` : "onsale live";
  document.querySelector(".hero").toggleAttribute("data-sold-out", latest?.available_seats <= 0);
  const total = latest ? latest.event.total_seats : 0;
  const sold = latest ? total - latest.available_seats : 0;
  at("sold").value = total ? Math.min(1, sold / total) : 0;
  const share = (total ? sold / total : 0).toLocaleString(language, {
    style: "percent",
    maximumFractionDigits: 1,
  });
  at("sold-text").textContent = latest ? text("soldText", number(sold), share) : "";
}

function showFigures() {
  const now = Date.now();
  const current = sampleAt(now);
  const put = (id, value, digits) => {
    const words = value === null || value === undefined ? "–" : number(value, digits);
    if (at(id).textContent !== words) at(id).textContent = words;
  };
  put("sales", rateAt(now, "sold"), 0);
  put("refused", rateAt(now, "refused"), 0);
  put("depth", current && current.depth, 0);
  put("confirm", current && current.confirm, 1);
}

// Plots

const PLOTS = {
  left: { color: "--accent", held: (each) => each.left },
  sales: { color: "--sales", rate: "sold", least: 10 },
  confirm: { color: "--confirm", most: "confirm", least: 10 },
  depth: { color: "--depth", most: "depth", least: 10 },
  refused: { color: "--refused", rate: "refused", least: 10 },
};

function mostUntil(instant, of) {
  const from = instant - STEP_MS;
  let most = sampleAt(from)?.[of] ?? null;
  for (let place = samples.length - 1; place >= 0 && samples[place].at > from; place -= 1) {
    const value = samples[place].at <= instant ? samples[place][of] : null;
    if (value !== null && value !== undefined) most = Math.max(most ?? 0, value);
  }
  return most;
}

function points(plot, from, to) {
  const found = [];
  if (!plot.held) {
    const value = (instant) =>
      plot.rate ? rateAt(instant, plot.rate) : mostUntil(instant, plot.most);
    // The instants are multiples of the step, so that the line moves and does not tremble.
    for (let instant = Math.floor(from / STEP_MS) * STEP_MS; instant < to; instant += STEP_MS) {
      found.push([instant, value(instant)]);
    }
    found.push([to, value(to)]);
    return found;
  }
  const value = (sample) => (sample && !sample.gap ? plot.held(sample) : null);
  for (const sample of samples) {
    const before = found.length ? found[found.length - 1][1] : null;
    if (before !== null) found.push([sample.at, before]);
    found.push([sample.at, value(sample)]);
  }
  if (found.length) found.push([to, found[found.length - 1][1]]);
  return found;
}

function ceiling(value, least) {
  const wanted = Math.max(value, least);
  const power = 10 ** Math.floor(Math.log10(wanted));
  return [1, 1.5, 2, 3, 5, 10].map((each) => each * power).find((each) => each >= wanted);
}

function draw(name, now, styles) {
  const canvas = at(`plot-${name}`);
  const plot = PLOTS[name];
  const ratio = devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
  if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = `11px ${styles.fontFamily}`;

  const from = now - MINUTE_MS;
  const line = points(plot, from, now);
  const highest = line.reduce((most, [, value]) => Math.max(most, value ?? 0), 0);
  const total = latest ? latest.event.total_seats : 1;
  const top = name === "left" ? Math.max(total, 1) : ceiling(highest, plot.least);
  const edge = { left: 4, right: 4, top: 16, bottom: 16 };
  const x = (instant) =>
    edge.left + ((instant - from) / MINUTE_MS) * (width - edge.left - edge.right);
  const y = (value) =>
    height - edge.bottom - (Math.max(0, value) / top) * (height - edge.top - edge.bottom);

  pen.lineWidth = 1;
  pen.strokeStyle = styles.getPropertyValue("--grid");
  pen.fillStyle = styles.getPropertyValue("--soft");
  for (const value of [0, top / 2, top]) {
    pen.beginPath();
    pen.moveTo(edge.left, Math.round(y(value)) + 0.5);
    pen.lineTo(width - edge.right, Math.round(y(value)) + 0.5);
    pen.stroke();
  }
  pen.textAlign = "left";
  pen.fillText(number(top), edge.left, y(top) - 4);
  pen.fillText(`−60 ${language === "ru" ? "с" : "s"}`, edge.left, height - 3);
  pen.textAlign = "right";
  pen.fillText("0", width - edge.right, height - 3);

  const color = styles.getPropertyValue(plot.color).trim();
  const wash = pen.createLinearGradient(0, y(top), 0, y(0));
  wash.addColorStop(0, `${color}55`);
  wash.addColorStop(1, `${color}05`);
  pen.save();
  pen.beginPath();
  pen.rect(edge.left, 0, width - edge.left - edge.right, height);
  pen.clip();
  pen.lineWidth = 2;
  pen.lineJoin = "round";
  pen.strokeStyle = color;
  pen.fillStyle = wash;
  let part = [];
  for (const point of [...line, [now, null]]) {
    if (point[1] !== null && point[1] !== undefined) {
      part.push([x(point[0]), y(point[1])]);
      continue;
    }
    if (part.length > 1) {
      const path = new Path2D();
      part.forEach(([across, down]) => path.lineTo(across, down));
      pen.stroke(path);
      path.lineTo(part[part.length - 1][0], y(0));
      path.lineTo(part[0][0], y(0));
      pen.fill(path);
    }
    part = [];
  }
  pen.restore();
}

let drawnAt = 0;

function drawAll(now) {
  requestAnimationFrame(drawAll);
  if (now - drawnAt < (calm.matches ? 1000 : 33)) return;
  drawnAt = now;
  const styles = getComputedStyle(document.body);
  for (const name of Object.keys(PLOTS)) draw(name, Date.now(), styles);
}

// The desk

function reply(...said) {
  if (said.length) answer = said;
  if (!answer) return;
  const [kind, key, ...args] = answer;
  at("answer").dataset.kind = kind;
  at("answer").textContent = key === "problem" ? problem(args[0]) : text(key, ...args);
}

function problem(body) {
  return language === "ru" ? body.error : body.detail;
}

function mark(input, isGood) {
  input.setAttribute("aria-invalid", String(!isGood));
  if (!isGood) input.focus();
  return isGood;
}

async function ask(path, options = {}) {
  const begun = performance.now();
  const headers = { ...options.headers, "Accept-Language": language };
  try {
    const answered = await fetch(path, { ...options, headers });
    const body = await answered.json();
    return { status: answered.status, body, ms: number(performance.now() - begun, 1) };
  } catch {
    return null;
  }
}

async function book() {
  const user = at("user").value.trim();
  if (!mark(at("event"), eventId > 0)) return reply("bad", "badEvent");
  if (!mark(at("user"), user !== "")) return reply("bad", "noUser");
  const made = await ask("api/bookings/reserve", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ event_id: eventId, user_id: user }),
  });
  if (!made) return reply("bad", "failed");
  const booking = made.body.id ?? made.body.booking_id;
  if (booking) at("booking").value = booking;
  if (made.status === 201) return reply("good", "confirmed", booking, made.ms);
  if (made.status === 202) return reply("good", "pending", booking, made.ms);
  if (made.body.code === "already_booked") return reply("bad", "alreadyBooked", booking);
  return reply("bad", "problem", made.body);
}

async function cancel() {
  const booking = at("booking").value.trim();
  if (!mark(at("booking"), /^[1-9]\d{0,15}$/.test(booking))) return reply("bad", "badBooking");
  const made = await ask(`api/bookings/${booking}`, { method: "DELETE" });
  if (!made) return reply("bad", "failed");
  if (made.status > 202) return reply("bad", "problem", made.body);
  at("booking").value = "";
  return reply("good", "cancelled", booking);
}

// The list of events

async function list() {
  const options = [];
  for (let page = 0, after = ""; page < MOST_PAGES; page += 1) {
    const found = await ask(`api/events?limit=100${after}`);
    if (!found || found.status !== 200) break;
    const { events, next } = found.body;
    options.push(...events.map((each) => new Option(`${each.id} · ${each.name}`, each.id)));
    if (!next) break;
    after = `&after=${encodeURIComponent(next)}`;
  }
  if (!options.length) return;
  at("list").replaceChildren(new Option(text("choose"), ""), ...options);
  at("list").value = eventId || "";
  if (at("list").selectedIndex < 0) at("list").selectedIndex = 0;
  at("list-field").hidden = false;
}

function pick() {
  const typed = at("event").value.trim();
  const good = /^[1-9]\d{0,9}$/.test(typed) && Number(typed) < 2 ** 31;
  if (mark(at("event"), good)) watch(Number(typed));
  else say(text("badEvent"));
}

function begin() {
  const forms = { pick, book, cancel };
  for (const [id, act] of Object.entries(forms)) {
    at(id).addEventListener("submit", (submitted) => {
      submitted.preventDefault();
      act();
    });
  }
  at("list").addEventListener("change", () => {
    if (at("list").value) watch(Number(at("list").value));
  });
  for (const each of document.querySelectorAll("[data-language]")) {
    each.addEventListener("click", () => {
      speak(each.dataset.language);
      try {
        localStorage.setItem("language", each.dataset.language);
      } catch {
        // storage may be forbidden
      }
    });
  }
  speak(firstLanguage());
  setInterval(showFigures, 250);
  requestAnimationFrame(drawAll);
  list();
  const asked = new URLSearchParams(location.search).get("event");
  if (asked) {
    at("event").value = asked;
    pick();
  }
}

begin();
