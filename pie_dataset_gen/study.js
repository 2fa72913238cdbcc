// Questions about a random mix of PIEs and other images. Answers are kept in
// this browser, under the page's digest, and travel as CSV.
'use strict';

(() => {
  const {levels, images, digest} = window.gallery;
  const STORE = `what-pruning-forgets-${digest}`;
  // The page holds what is asked; names of columns of the CSV.
  const boxes = () => [...byId('answers').querySelectorAll('input')];
  const QUESTIONS = boxes().map((box) => box.name);
  const IDENTITY = [
    'annotator',
    'image_key',
    'pruning_method',
    'pruning_fraction',
    'is_blind',
  ];
  const COLUMNS = [...IDENTITY, ...QUESTIONS];

  const idOf = (answer) =>
    JSON.stringify(IDENTITY.slice(0, 4).map((name) => String(answer[name])));

  const read = () => {
    try {
      return JSON.parse(localStorage.getItem(STORE) || '{}');
    } catch {
      return {};
    }
  };

  const say = (text) => {
    byId('study-status').textContent = text;
  };

  const answers = read();
  const keep = () => {
    try {
      localStorage.setItem(STORE, JSON.stringify(answers));
    } catch (error) {
      say(`This browser keeps nothing (${error.name}): export before you leave.`);
    }
  };

  // A number in [0, 1) that a text decides (FNV-1a, then a mixing step), so
  // that all annotators are asked about the same images.
  const fraction = (text) => {
    let hash = 2166136261;
    for (const byte of new TextEncoder().encode(text)) {
      hash = Math.imul(hash ^ byte, 16777619);
    }
    hash = Math.imul(hash ^ (hash >>> 16), 2246822507);
    hash = Math.imul(hash ^ (hash >>> 13), 3266489909);
    return ((hash ^ (hash >>> 16)) >>> 0) / 2 ** 32;
  };

  const shuffled = (some, seed) =>
    some
      .map((image) => [fraction(`${seed}/${image.key}`), image])
      .sort((a, b) => a[0] - b[0])
      .map(([, image]) => image);

  // As many PIEs as others, the same for all annotators, in an order of each.
  const draw = (level, size, annotator) => {
    const pies = images.filter((image) => gallery.isPie(image, level));
    // Suspects, say, are on the page too, but no random choice.
    const others = images.filter((image) => image.drawn);
    const half = Math.min(Math.floor(size / 2), pies.length, others.length);
    const mix = [pies, others].flatMap((some) =>
      shuffled(some, `${digest}/${level}`).slice(0, half),
    );
    return shuffled(mix, `${annotator}/${level}`);
  };

  let session = null;

  const identity = () => ({
    annotator: session.annotator,
    image_key: session.mix[session.at].key,
    pruning_method: levels[session.level].method,
    pruning_fraction: levels[session.level].fraction,
    is_blind: Number(session.blind),
  });

  const show = () => {
    const image = session.mix[session.at];
    const picture = byId('study-image');
    picture.src = image.large;
    picture.className = pixels(image);
    // Blind: neither the text nor the name of the file tells.
    picture.alt = `Image ${session.at + 1}, labelled ${className(image.label)}`;
    const told = session.blind
      ? ''
      : `. Dense networks say ${className(image.dense.label)}, compressed ones ` +
        `${className(image.compressed[session.level].label)}: ` +
        `${gallery.isPie(image, session.level) ? 'a PIE' : 'no PIE'}`;
    byId('study-label').textContent =
      `Label: ${className(image.label)}${told}`;
    const done = answers[idOf(identity())];
    for (const box of boxes()) box.checked = Boolean(done && done[box.name]);
    const number = session.mix.filter(
      (_, at) => answers[idOf({...identity(), image_key: session.mix[at].key})],
    ).length;
    byId('study-progress').textContent =
      `Image ${session.at + 1} of ${session.mix.length}, ${number} answered`;
    byId('previous').disabled = session.at === 0;
    byId('study-item').hidden = false;
    byId('next').focus();
  };

  const save = () => {
    const answer = identity();
    for (const box of boxes()) answer[box.name] = Number(box.checked);
    answers[idOf(answer)] = answer;
    keep();
  };

  const next = () => {
    save();
    if (session.at + 1 < session.mix.length) {
      session.at += 1;
      show();
    } else {
      show();
      say('That was the last one. Thank you: export the answers now.');
    }
  };

  const previous = () => {
    if (session.at > 0) {
      session.at -= 1;
      show();
    }
  };

  const begin = (event) => {
    event.preventDefault();
    const annotator = byId('annotator').value.trim();
    const level = Number(byId('study-level').value);
    const mix = draw(level, Number(byId('study-size').value), annotator);
    if (!annotator || !mix.length) {
      say(annotator ? 'There is no PIE at this level.' : 'A name is needed.');
      return;
    }
    session = {annotator, level, mix, blind: byId('blind').checked, at: 0};
    const first = mix.findIndex(
      (image) => !answers[idOf({...identity(), image_key: image.key})],
    );
    session.at = Math.max(first, 0);
    say('');
    show();
  };

  const quote = (value) => {
    const text = String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };

  const toCsv = () => {
    const rows = Object.keys(answers)
      .sort()
      .map((id) => COLUMNS.map((name) => quote(answers[id][name])).join(','));
    return [COLUMNS.join(','), ...rows, ''].join('\n');
  };

  // Cells of a CSV by row; a quoted cell may hold commas and line breaks.
  const parseCsv = (text) => {
    const rows = [[]];
    const cell = /("(?:[^"]|"")*"|[^",\r\n]*)(,|\r?\n|$)/y;
    cell.lastIndex = text.startsWith('\ufeff') ? 1 : 0;
    while (cell.lastIndex < text.length) {
      const match = cell.exec(text);
      if (!match) throw new Error('a quote that does not end where a cell does');
      const [, value, end] = match;
      rows.at(-1).push(
        value.startsWith('"') ? value.slice(1, -1).replaceAll('""', '"') : value,
      );
      if (end !== ',') rows.push([]);
      else if (cell.lastIndex === text.length) rows.at(-1).push('');
    }
    return rows.filter((row) => row.length > 1);
  };

  const fromCsv = (text) => {
    const [header = [], ...rows] = parseCsv(text);
    const missing = COLUMNS.filter((name) => !header.includes(name));
    if (missing.length) throw new Error(`it lacks the columns ${missing}`);
    const known = new Set(images.map((image) => image.key));
    return rows.map((row, index) => {
      const answer = {};
      for (const name of COLUMNS) answer[name] = row[header.indexOf(name)];
      const where = `line ${index + 2}`;
      if (row.length !== header.length) {
        throw new Error(`${where} has ${row.length} cells`);
      }
      if (!known.has(answer.image_key)) {
        throw new Error(`${where} names an image that is not on this page`);
      }
      for (const name of ['is_blind', ...QUESTIONS]) {
        if (!['0', '1'].includes(answer[name])) {
          throw new Error(`${where}, ${name} is ${answer[name]}, wanted 0 or 1`);
        }
        answer[name] = Number(answer[name]);
      }
      answer.pruning_fraction = Number(answer.pruning_fraction);
      return answer;
    });
  };

  const exportCsv = () => {
    const url = URL.createObjectURL(new Blob([toCsv()], {type: 'text/csv'}));
    make('a', {href: url, download: `annotations-${digest}.csv`}).click();
    URL.revokeObjectURL(url);
    say(`Exported ${Object.keys(answers).length} answers.`);
  };

  const importCsv = async (event) => {
    const [file] = event.target.files;
    if (!file) return;
    try {
      const found = fromCsv(await file.text());
      for (const answer of found) answers[idOf(answer)] = answer;
      keep();
      say(`Imported ${found.length} answers.`);
      if (session) show();
    } catch (error) {
      say(`Nothing was imported from ${file.name}: ${error.message}.`);
    }
    event.target.value = '';
  };

  const onKey = (event) => {
    // Keys belong to the study only while it is what one is at.
    if (!session || byId('large').open || event.ctrlKey || event.metaKey) return;
    if (!byId('study-item').contains(document.activeElement)) return;
    const digit = Number(event.key);
    if (event.key === '0') {
      for (const box of boxes()) box.checked = false;
    } else if (digit >= 1 && digit <= QUESTIONS.length) {
      const box = boxes()[digit - 1];
      box.checked = !box.checked;
    } else if (event.key === 'ArrowLeft') {
      previous();
    } else if (event.key === 'Enter' && event.target !== byId('previous')) {
      next();
    } else {
      return;
    }
    event.preventDefault();
  };

  byId('study-level').append(
    ...levels.map((level, at) => gallery.option(at, level.name)),
  );
  if (levels.length) byId('study-level').value = levels.length - 1;
  byId('study-start').addEventListener('submit', begin);
  byId('questions').addEventListener('submit', (event) => {
    event.preventDefault();
    next();
  });
  byId('previous').addEventListener('click', previous);
  byId('export').addEventListener('click', exportCsv);
  byId('import').addEventListener('change', importCsv);
  document.addEventListener('keydown', onKey);
})();
