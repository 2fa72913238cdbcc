// Filters, sorts and shows the images of data.js. Text from data only ever
// becomes text: nothing is parsed as HTML.
'use strict';

const byId = (id) => document.getElementById(id);

// Makes an element; children are elements or text.
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

const className = (label) => window.gallery.classes[label];
const percent = (share) => `${Math.round(100 * share)} %`;
// Small images are shown as the squares they are made of.
const pixels = (image) => (Math.max(...image.size) <= 64 ? 'pixels' : '');
// As in pie_dataset_gen/rounding.py.
const pValue = (p) =>
  p <= 0 || p >= 0.001
    ? String(Number(p.toFixed(3)))
    : p.toFixed(Math.ceil(-Math.log10(p)));
// An element that a word of the page's list explains.
const term = (text, name) =>
  make('span', {title: window.gallery.terms[name] || ''}, text);

const gallery = (() => {
  const {levels, images, solidity, suspects, groups} = window.gallery;
  // Cards are made as they are needed: thousands of them open at once.
  const CHUNK = 120;
  let shown = [];
  let drawn = 0;
  // The list that is looked through in large, and where in it.
  let list = [];
  let open = 0;

  // For each level, and each image in its place, 1 or 0.
  const pies = JSON.parse(byId('pies').textContent);
  const placeOf = new Map(images.map((image, at) => [image, at]));
  const isPie = (image, level) => pies[level][placeOf.get(image)] === 1;

  const imageOf = new Map(images.map((image) => [image.key, image]));
  const suspectOf = new Map(suspects.map((suspect) => [suspect.key, suspect]));
  const suspectRank = (image) =>
    suspectOf.has(image.key) ? suspectOf.get(image.key).rank : Infinity;

  // What is said of an image beside chance: "solid", ...
  const word = (image, level) => solidity[image.compressed[level].solidity];

  const direction = (image, level) => {
    const dense = image.dense.label === image.label;
    const compressed = image.compressed[level].label === image.label;
    if (dense && compressed) return 'right';
    if (dense) return 'dense';
    return compressed ? 'compressed' : 'wrong';
  };

  const KINDS = {
    '': () => true,
    pie: isPie,
    // In the order of their strength, solid first.
    solid: (image, level) =>
      isPie(image, level) && image.compressed[level].solidity === 0,
    uncertain: (image, level) =>
      isPie(image, level) && image.compressed[level].solidity <= 1,
    other: (image, level) => !isPie(image, level),
    suspect: (image) => suspectOf.has(image.key),
  };

  // Numbers in rising order, those that are not there last.
  const rising = (of) => (a, b) => {
    const [x, y] = [of(a), of(b)].map((n) => (n === null ? Infinity : n));
    return x === y ? 0 : x - y;
  };

  const ORDERS = {
    rank: (level) => rising((image) => image.compressed[level].rank),
    p: (level) => rising((image) => image.compressed[level].p),
    q: (level) => rising((image) => image.compressed[level].q),
    frequency: (level) =>
      rising(({compressed}) =>
        compressed[level].frequency === null
          ? null
          : -compressed[level].frequency,
      ),
    dense: () => rising((image) => image.dense.share),
    compressed: (level) => rising((image) => image.compressed[level].share),
    suspect: () => rising(suspectRank),
    class: () => rising((image) => image.label),
    key: () => () => 0,
  };

  const level = () => Number(byId('level').value);

  const choose = () => {
    const at = level();
    const kind = byId('kind').value;
    const label = byId('class').value;
    const group = groups.length ? byId('group').value : '';
    const wanted = byId('direction').value;
    const search = byId('search').value;
    return images
      .filter(
        (image) =>
          KINDS[kind](image, at) &&
          (label === '' || image.label === Number(label)) &&
          (group === '' || image.groups.includes(Number(group))) &&
          (!wanted || wanted === direction(image, at)) &&
          image.key.includes(search),
      )
      .sort(
        (a, b) =>
          ORDERS[byId('sort').value](at)(a, b) ||
          (a.key < b.key ? -1 : Number(a.key > b.key)),
      );
  };

  const describe = (image, at) =>
    `${isPie(image, at) ? 'PIE' : 'Image'} of class ` +
    `${className(image.label)}; dense networks say ` +
    `${className(image.dense.label)}, compressed ones ` +
    `${className(image.compressed[at].label)}`;

  // Whether an image is a PIE, and what that is worth.
  const worth = (image, at) => {
    const name = isPie(image, at) ? 'PIE' : 'no PIE';
    const says = word(image, at);
    return says === 'not tested' || name === 'no PIE'
      ? term(name, 'PIE')
      : term(`${name}: ${says}`, says);
  };

  const chances = ({p, q, frequency}) => {
    const parts = [];
    if (p !== null) parts.push(term(`p ${pValue(p)}`, 'p-value'));
    if (q !== null) parts.push(term(`q ${pValue(q)}`, 'q-value'));
    if (frequency !== null) {
      parts.push(term(`a PIE in ${percent(frequency)} of halves`, 'PIE frequency'));
    }
    return parts.flatMap((part, at) => (at ? [', ', part] : [part]));
  };

  const cardOf = (image, at, enlargeIt, ...lines) => {
    const button = make(
      'button',
      {type: 'button', className: 'card'},
      make('img', {
        src: image.small,
        alt: describe(image, at),
        loading: 'lazy',
        className: pixels(image),
      }),
      make('span', {className: 'mark'}, `label: ${className(image.label)}`),
      ...lines.map(([properties, ...parts]) =>
        make('span', {...properties, className: `line ${properties.className || ''}`}, ...parts),
      ),
    );
    button.addEventListener('click', enlargeIt);
    const item = make('li', {}, button);
    item.dataset.key = image.key;
    return item;
  };

  const card = (image, index) => {
    const at = level();
    const compressed = image.compressed[at];
    return cardOf(
      image,
      at,
      () => enlarge(shown, index),
      [
        {className: 'dense'},
        `dense: ${className(image.dense.label)} (${percent(image.dense.share)})`,
      ],
      [
        {className: 'compressed'},
        `compressed: ${className(compressed.label)} ` +
          `(${percent(compressed.share)})`,
      ],
      [{className: `worth-${compressed.solidity}`}, worth(image, at)],
      [{}, ...chances(compressed)],
      [{}, term(`Taxicab rank ${compressed.rank}`, 'Taxicab rank')],
      [{className: 'key'}, image.key],
    );
  };

  const suspectCard = (suspect, index) => {
    const image = imageOf.get(suspect.key);
    return cardOf(
      image,
      levels.length - 1,
      () => enlarge(suspects.map(({key}) => imageOf.get(key)), index),
      [
        {},
        suspect.suggested === null
          ? 'no other label is suggested'
          : `suggested: ${className(suspect.suggested)} ` +
            `(${percent(suspect.suggesting)} of votes)`,
      ],
      [{}, `${percent(suspect.agree)} of members agree with the label`],
      [
        {},
        `a PIE at ${suspect.pies} of ${levels.length} ` +
          `${levels.length === 1 ? 'level' : 'levels'}`,
      ],
      // What compression changed, where it did.
      ...(suspect.q !== null && suspect.q <= window.gallery.significance
        ? [
            [
              {},
              term(`solid: q ${pValue(suspect.q)}`, 'solid'),
              ` over all levels, the smallest at ${suspect.level}`,
            ],
          ]
        : []),
      [{className: 'key'}, `${suspect.rank}. ${image.key}`],
    );
  };

  const drawMore = () => {
    const end = Math.min(drawn + CHUNK, shown.length);
    const cards = [];
    for (; drawn < end; drawn += 1) cards.push(card(shown[drawn], drawn));
    byId('grid').append(...cards);
  };

  const update = () => {
    shown = choose();
    drawn = 0;
    byId('grid').replaceChildren();
    drawMore();
    const at = level();
    const solid = images.filter((image) => KINDS.solid(image, at)).length;
    byId('count').textContent =
      `${shown.length} of ${images.length} images on this page; ` +
      `${levels[at].pies} PIEs of ${levels[at].images} images at this level, ` +
      `${solid} of them solid`;
  };

  // The votes of a population: a bar for each class that has any.
  const votes = (population, image, who) => {
    const cast = population.votes.length
      ? population.votes
      : [[population.label, population.share * population.members]];
    return cast.map(([label, number]) => {
      const fill = make('span', {className: `fill ${who}`});
      fill.style.width = `${(100 * number) / population.members}%`;
      return make(
        'div',
        {className: 'bar'},
        make(
          'span',
          {className: label === image.label ? 'right' : ''},
          className(label),
        ),
        fill,
        make('span', {}, `${Math.round(number)} of ${population.members}`),
      );
    });
  };

  const row = (name, image, population, who, ...more) =>
    make(
      'tr',
      {},
      make('th', {scope: 'row'}, name, ...more),
      make('td', {}, ...votes(population, image, who)),
    );

  const enlarge = (of, index) => {
    list = of;
    open = index;
    const image = list[index];
    byId('large-title').textContent = image.key;
    const large = byId('large-image');
    large.src = image.large;
    large.alt = describe(image, level());
    large.className = pixels(image);
    const suspect = suspectOf.get(image.key);
    byId('large-votes').replaceChildren(
      make('p', {}, `Label: ${className(image.label)} (${image.shard})`),
      ...(image.groups.length
        ? [make('p', {}, `Groups: ${image.groups.map((at) => groups[at]).join('; ')}`)]
        : []),
      ...(suspect && suspect.suggested !== null
        ? [
            make(
              'p',
              {},
              `Suspect number ${suspect.rank}: ${percent(suspect.agree)} of ` +
                'members agree with the label; suggested instead: ' +
                className(suspect.suggested),
            ),
          ]
        : []),
      make(
        'table',
        {className: 'votes'},
        make('caption', {}, 'Votes: the dense members, then each level'),
        row('dense', image, image.dense, 'dense'),
        ...image.compressed.map((population, at) => {
          const numbers = chances(population);
          return row(
            levels[at].name,
            image,
            population,
            'compressed',
            make('br'),
            make(
              'small',
              {},
              worth(image, at),
              ...(numbers.length ? ['; ', ...numbers] : []),
              '; ',
              term(
                `Taxicab distance ${population.taxicab}, rank ${population.rank}`,
                'Taxicab distance',
              ),
            ),
          );
        }),
      ),
    );
    byId('large-previous').disabled = index === 0;
    byId('large-next').disabled = index === list.length - 1;
    if (!byId('large').open) byId('large').showModal();
  };

  const turn = (by) => {
    if (list[open + by]) enlarge(list, open + by);
  };

  const option = (value, text) => make('option', {value}, text);

  byId('level').append(...levels.map((l, i) => option(i, l.name)));
  // The sparsest level has most to show.
  if (levels.length) byId('level').value = levels.length - 1;
  const present = [...new Set(images.map((image) => image.label))];
  byId('class').append(
    ...present.sort((a, b) => a - b).map((label) => option(label, className(label))),
  );
  if (groups.length) byId('group').append(...groups.map((name, at) => option(at, name)));
  byId('filters').addEventListener('input', update);
  byId('filters').addEventListener('submit', (event) => event.preventDefault());
  byId('large-previous').addEventListener('click', () => turn(-1));
  byId('large-next').addEventListener('click', () => turn(1));
  byId('large').addEventListener('keydown', (event) => {
    if (event.key === 'ArrowLeft') turn(-1);
    if (event.key === 'ArrowRight') turn(1);
  });
  const atEnd = new IntersectionObserver(
    (entries) => {
      if (drawn === shown.length || !entries.at(-1).isIntersecting) return;
      drawMore();
      // Asked anew, since the end may still be in sight.
      atEnd.unobserve(byId('grid-end'));
      atEnd.observe(byId('grid-end'));
    },
    {rootMargin: '1500px'},
  );
  atEnd.observe(byId('grid-end'));
  if (suspects.length) byId('suspects-grid').append(...suspects.map(suspectCard));
  if (levels.length) update();
  return {isPie, option};
})();
