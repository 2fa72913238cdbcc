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
const levelName = (level) => `${level.method} ${level.fraction}`;

const gallery = (() => {
  const {levels, images} = window.gallery;
  // Cards are made as they are needed: thousands of them open at once.
  const CHUNK = 120;
  let shown = [];
  let drawn = 0;
  let open = 0;

  // For each level, and each image in its place, 1 or 0.
  const pies = JSON.parse(byId('pies').textContent);
  const placeOf = new Map(images.map((image, at) => [image, at]));
  const isPie = (image, level) => pies[level][placeOf.get(image)] === 1;

  const direction = (image, level) => {
    const dense = image.dense.label === image.label;
    const pruned = image.pruned[level].label === image.label;
    if (dense && pruned) return 'right';
    if (dense) return 'dense';
    return pruned ? 'pruned' : 'wrong';
  };

  const ORDERS = {
    rank: (level) => (a, b) => a.pruned[level].rank - b.pruned[level].rank,
    dense: () => (a, b) => a.dense.share - b.dense.share,
    pruned: (level) => (a, b) => a.pruned[level].share - b.pruned[level].share,
    class: () => (a, b) => a.label - b.label,
    key: () => () => 0,
  };

  const level = () => Number(byId('level').value);

  const choose = () => {
    const at = level();
    const kind = byId('kind').value;
    const label = byId('class').value;
    const wanted = byId('direction').value;
    const search = byId('search').value;
    return images
      .filter(
        (image) =>
          (!kind || (kind === 'pie') === isPie(image, at)) &&
          (label === '' || image.label === Number(label)) &&
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
    `${className(image.dense.label)}, pruned ones ` +
    `${className(image.pruned[at].label)}`;

  const card = (image, index) => {
    const at = level();
    const pruned = image.pruned[at];
    const button = make(
      'button',
      {type: 'button', className: 'card'},
      make('img', {
        src: image.small,
        alt: describe(image, at),
        loading: 'lazy',
        className: pixels(image),
      }),
      make('span', {className: 'mark'}, `true: ${className(image.label)}`),
      make(
        'span',
        {className: 'dense'},
        `dense: ${className(image.dense.label)} (${percent(image.dense.share)})`,
      ),
      make(
        'span',
        {className: 'pruned'},
        `pruned: ${className(pruned.label)} (${percent(pruned.share)})`,
      ),
      make('span', {}, `Taxicab rank ${pruned.rank}`),
      make('span', {}, image.key),
    );
    button.addEventListener('click', () => enlarge(index));
    const item = make('li', {}, button);
    item.dataset.key = image.key;
    return item;
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
    byId('count').textContent =
      `${shown.length} of ${images.length} images on this page; ` +
      `${levels[level()].pies} PIEs of ${levels[level()].images} images at ` +
      'this level';
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

  const enlarge = (index) => {
    open = index;
    const image = shown[index];
    byId('large-title').textContent = image.key;
    const large = byId('large-image');
    large.src = image.large;
    large.alt = describe(image, level());
    large.className = pixels(image);
    byId('large-votes').replaceChildren(
      make('p', {}, `True class: ${className(image.label)} (${image.shard})`),
      make(
        'table',
        {className: 'votes'},
        make('caption', {}, 'Votes, from dense to the sparsest level'),
        row('dense', image, image.dense, 'dense'),
        ...image.pruned.map((population, at) =>
          row(
            levelName(levels[at]),
            image,
            population,
            'pruned',
            make('br'),
            make(
              'small',
              {},
              `${isPie(image, at) ? 'PIE, ' : ''}Taxicab distance ` +
                `${population.taxicab}, rank ${population.rank}`,
            ),
          ),
        ),
      ),
    );
    byId('large-previous').disabled = index === 0;
    byId('large-next').disabled = index === shown.length - 1;
    if (!byId('large').open) byId('large').showModal();
  };

  const turn = (by) => {
    if (shown[open + by]) enlarge(open + by);
  };

  const option = (value, text) => make('option', {value}, text);

  byId('level').append(...levels.map((l, i) => option(i, levelName(l))));
  // The sparsest level has most to show.
  if (levels.length) byId('level').value = levels.length - 1;
  const present = [...new Set(images.map((image) => image.label))];
  byId('class').append(
    ...present.sort((a, b) => a - b).map((label) => option(label, className(label))),
  );
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
  if (levels.length) update();
  return {isPie, option};
})();
