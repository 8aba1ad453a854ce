// Texts in English and French. Elements keep their keys, so switching translates the page in place.

const TEXTS = {
  skip: ["Skip to the content", "Aller au contenu"],
  api_docs: ["API documentation", "Documentation de l’API"],
  language: ["Language", "Langue"],
  theme: ["Colours", "Couleurs"],
  theme_auto: ["System", "Système"],
  theme_light: ["Light", "Clair"],
  theme_dark: ["Dark", "Sombre"],
  sections: ["Sections", "Rubriques"],
  nav_try: ["Try it", "Essayer"],
  nav_inspector: ["Inspector", "Inspecteur"],
  nav_selfcheck: ["Self-check", "Autotest"],
  nav_flow: ["Deployment", "Déploiement"],
  nav_live: ["Live", "En direct"],
  ready: ["ready", "prêt"],
  not_ready: ["not ready", "pas prêt"],
  classes: ["{n} classes", "{n} classes"],
  try_title: ["Classify images", "Classer des images"],
  drop_hint: ["Drop images here, paste them, or:", "Déposez des images ici, collez-les, ou :"],
  pick: ["Choose files", "Choisir des fichiers"],
  photo: ["Take a photo", "Prendre une photo"],
  top_k: ["Predictions (top_k)", "Prédictions (top_k)"],
  samples_title: ["Golden samples of this model", "Échantillons de référence du modèle"],
  copy_title: ["The same request", "La même requête"],
  copy: ["Copy", "Copier"],
  copied: ["Copied", "Copié"],
  curl_raw: ["curl, raw body", "curl, corps brut"],
  curl_form: ["curl, form", "curl, formulaire"],
  python_client: ["Python, standard library", "Python, bibliothèque standard"],
  predictions: ["Predictions", "Prédictions"],
  no_prediction: ["No label reaches the threshold of {threshold}.", "Aucune étiquette n’atteint le seuil de {threshold}."],
  softmax_note: ["Softmax: exactly one label is right; all probabilities sum to 1.", "Softmax : une seule étiquette est juste ; la somme des probabilités vaut 1."],
  sigmoid_note: ["Sigmoid: each label is judged independently.", "Sigmoïde : chaque étiquette est juste ou non, indépendamment."],
  threshold_note: ["Labels at or above {threshold} (dashed line) are returned.", "Les étiquettes à partir de {threshold} (trait pointillé) forment la réponse."],
  none_note: ["No activation: the values are logits.", "Sans activation : les valeurs sont des logits."],
  time_title: ["Where the time went", "Où passe le temps"],
  upload: ["network, upload", "réseau, envoi"],
  decode: ["decode", "décodage"],
  queue: ["queue", "file d’attente"],
  infer: ["inference", "inférence"],
  total_time: ["{ms} ms in this browser; the parts of the service are from Server-Timing.", "{ms} ms dans ce navigateur ; les parts du service viennent de Server-Timing."],
  see: ["What the model sees", "Ce que voit le modèle"],
  step_decode: ["Decoded", "Décodée"],
  step_colour: ["Colours", "Couleurs"],
  step_orient: ["Turned upright", "Redressée"],
  step_resize: ["Resized", "Redimensionnée"],
  step_crop: ["Cropped", "Recadrée"],
  step_input: ["Input", "Entrée"],
  step_normalise: ["Normalised", "Normalisée"],
  normalise_note: ["values rescaled for display", "valeurs remises à l’échelle pour l’affichage"],
  range: ["{low} to {high}", "{low} à {high}"],
  waiting: ["Working …", "En cours …"],
  error_malformed_request: ["The request is not valid.", "La requête n’est pas valide."],
  error_body_too_large: ["The file exceeds the size limit of this service.", "Le fichier dépasse la taille acceptée."],
  error_body_too_slow: ["The upload took too long.", "L’envoi a duré trop longtemps."],
  error_headers_too_large: ["The request has too many headers.", "La requête a trop d’en-têtes."],
  error_image_too_large: ["The image exceeds a limit on pixels, aspect ratio, time or memory.", "L’image dépasse une limite : pixels, proportions, durée ou mémoire."],
  error_unsupported_media_type: ["The file is not a JPEG, PNG, WebP, GIF or BMP image.", "Ce n’est pas un fichier JPEG, PNG, WebP, GIF ou BMP."],
  error_undecodable_image: ["The file is not one complete image.", "Le fichier n’est pas une image complète."],
  error_overloaded: ["The service is at its capacity; try again soon.", "Le service est à pleine capacité ; réessayez bientôt."],
  error_not_ready: ["The model cannot be reached; try again.", "Le modèle est injoignable ; réessayez."],
  error_deadline_exceeded: ["No answer in time.", "Pas de réponse à temps."],
  error_internal_error: ["Internal error; see the service log.", "Erreur interne ; le journal du service contient la requête."],
  error_unreachable: ["The service does not answer.", "Le service ne répond pas."],
  error_not_found: ["Not found.", "Introuvable."],
  error_method_not_allowed: ["Not allowed.", "Non autorisé."],
  identity: ["Identity and evidence", "Identité et preuves"],
  tag: ["Tag", "Étiquette du modèle"],
  manifest_digest: ["Identity (manifest)", "Identité (manifeste)"],
  evidence_digest: ["Evidence", "Preuves"],
  signature: ["Signature", "Signature"],
  signature_state_verified: ["verified at the start of this process", "vérifiée au démarrage de ce processus"],
  signature_state_present: ["present, not checked (CLASSIFIER_PUBLIC_KEY is not set)", "présente, non vérifiée (CLASSIFIER_PUBLIC_KEY absent)"],
  signature_state_none: ["none", "aucune"],
  schema: ["Schema version", "Version du schéma"],
  architecture: ["Architecture", "Architecture"],
  finished_graph: ["a finished graph", "un graphe fini"],
  imported_at: ["Imported", "Importé"],
  import_command: ["Command", "Commande"],
  import_machine: ["Machine", "Machine"],
  commit: ["Program commit", "Commit du programme"],
  proof_title: ["Basis of the proof", "Sur quoi repose la preuve"],
  proven: ["proven", "prouvé"],
  unproven: ["unproven", "non prouvé"],
  proof_labelled: ["Accuracy: the reference classifies {right} of {images} labelled golden images correctly.", "Exactitude : la référence classe correctement la classe de {right} images de référence annotées sur {images}."],
  proof_unlabelled: ["No golden image is labelled: the order of the labels and the preprocessing of the training are unverified.", "Aucune image de référence n’est annotée : l’ordre des étiquettes et le prétraitement de l’entraînement ne sont pas vérifiés."],
  proof_notebook: ["The notebook’s numbers are reproduced on {samples} golden images.", "Les valeurs du notebook sont reproduites sur {samples} images de référence."],
  proof_no_notebook: ["No notebook numbers were given (--reference): agreement with the notebook is unverified.", "Aucune valeur de notebook fournie (--reference) : l’accord avec le notebook n’est pas vérifié."],
  proof_engine_equal: ["{engine} equals the reference within a tolerance of {tolerance}: largest logit difference {difference} on {samples} golden images.", "{engine} égale la référence à une tolérance de {tolerance} : plus grand écart d’un logit {difference} sur {samples} images."],
  proof_engine_agrees: ["{engine} agrees with the reference on {agreement} of {samples} golden images (first label, or the worst of several); {required} is required. Its numbers are not equal.", "{engine} s’accorde avec la référence sur {agreement} de {samples} images (première étiquette, ou la pire de plusieurs) ; {required} est exigé. Ses valeurs ne sont pas égales."],
  proof_shrinking: ["Decoding large JPEGs at a reduced size keeps the first label ({agreement}).", "Décoder les grands JPEG en taille réduite conserve la première étiquette ({agreement})."],
  proof_preprocessing: ["Preprocessing reproduces the pixels of the import: {cases} conformance cases and {samples} golden inputs were compared when this process started.", "Le prétraitement donne les pixels de l’import : {cases} cas de conformité et {samples} entrées comparés au démarrage."],
  proof_signature_verified: ["The owner of the configured key signed exactly these files.", "Le détenteur de la clé configurée a signé exactement ces fichiers."],
  proof_signature_present: ["A signature exists but was not checked: the author is unverified.", "Une signature existe mais n’a pas été vérifiée : l’auteur du modèle est inconnu."],
  proof_signature_none: ["The model is not signed: its author is unknown.", "Le modèle n’est pas signé : son auteur est inconnu."],
  proof_same_machine: ["Latency curves and plan were measured on this kind of machine ({cpu}).", "Courbes de latence et plan mesurés sur ce type de machine ({cpu})."],
  proof_other_machine: ["Latency curves were measured on another machine ({cpu}): the speed here is unverified.", "Courbes de latence mesurées sur une autre machine ({cpu}) : la vitesse ici n’est pas vérifiée."],
  proof_rate: ["Over HTTP, {rate} images/s with p99 within {budget} ms ({cpu}).", "Par HTTP, {rate} images/s avec p99 sous {budget} ms ({cpu})."],
  proof_no_rate: ["The rate this service sustains over HTTP was not measured (make certify).", "Le débit tenu par HTTP n’a pas été mesuré (make certify)."],
  files_title: ["Files and digests", "Fichiers et empreintes"],
  files_note: ["The start verified the digest of each file named in the manifest or the evidence.", "Le démarrage a comparé l’empreinte de chaque fichier que citent le manifeste ou les preuves."],
  file: ["File", "Fichier"],
  size: ["Size", "Taille"],
  pinned_by: ["Pinned by", "Fixé par"],
  nothing: ["nothing", "rien"],
  weights_title: ["Weights", "Poids"],
  weights_summary: ["{tensors} tensors, {parameters} values, {size}", "{tensors} tenseurs, {parameters} valeurs, {size}"],
  no_weights: ["The weights are inside the graph.", "Les poids sont dans le graphe."],
  tensor: ["Tensor", "Tenseur"],
  shape: ["Shape", "Forme"],
  type: ["Type", "Type"],
  values: ["Values", "Valeurs"],
  sources_title: ["Architecture and preprocessing", "Architecture et prétraitement"],
  labels_title: ["Labels", "Étiquettes"],
  search_labels: ["Search labels", "Chercher une étiquette"],
  shown_labels: ["{n} of {total}", "{n} sur {total}"],
  engines_title: ["Engines and certificates", "Moteurs et certificats"],
  engine: ["Engine", "Moteur"],
  verdict: ["Verdict", "Verdict"],
  max_difference: ["max |Δlogit|", "max |Δlogit|"],
  agreement: ["Agreement", "Accord"],
  accuracy: ["Accuracy (reference)", "Exactitude (référence)"],
  fastest: ["Best images/s", "Max images/s"],
  verdict_serves: ["serves", "en service"],
  verdict_passed: ["passed", "réussi"],
  verdict_failed: ["refused", "refusé"],
  verdict_unavailable: ["unavailable", "indisponible"],
  why_serves: ["Chosen: {rate} images/s by the plan’s measurement; batch sizes {batches}. A later engine must be at least a tenth faster, beyond noise, to be preferred.", "Choisi : {rate} images/s selon la mesure du plan ; lots {batches}. Un moteur suivant doit être plus rapide d’un dixième, au-delà du bruit."],
  curves_title: ["Latency and throughput curves", "Courbes de latence et de débit"],
  curves_note: ["Measured at import; one line per engine and number of streams.", "Mesurées à l’import ; une ligne par moteur et nombre de flux."],
  no_curves: ["No measurements.", "Rien n’a été mesuré."],
  batch_size: ["Batch size", "Taille de lot"],
  latency_ms: ["Latency, ms", "Latence, ms"],
  images_per_s: ["Images/s", "Images/s"],
  capacity_title: ["Capacity certificate", "Certificat de capacité"],
  no_capacity: ["None: make certify measures the rate this machine sustains.", "Aucun : make certify mesure le débit tenu par la machine."],
  highest_rate: ["Highest rate", "Débit maximal"],
  first_failed: ["First failed rate", "Premier débit en échec"],
  saturated: ["Saturated", "À saturation"],
  measured: ["Measured", "Mesuré"],
  rule: ["Rule", "Règle"],
  conformance_title: ["Conformance cases", "Cas de conformité"],
  conformance_note: ["{n} small files covering all containers, colour modes and orientations; the start verified the digest of each.", "{n} petits fichiers couvrant conteneurs, modes de couleur et orientations ; le démarrage a comparé chaque empreinte."],
  case: ["Case", "Cas"],
  outcome: ["Outcome (sha256 of the pixels)", "Résultat (sha256 des pixels)"],
  golden_title: ["Golden samples", "Échantillons de référence"],
  environment_title: ["Environment", "Environnement"],
  python: ["Python", "Python"],
  platform: ["Platform", "Plateforme"],
  processor: ["Processor", "Processeur"],
  cores: ["{n} cores", "{n} cœurs"],
  gpu: ["GPU", "GPU"],
  none: ["none", "aucun"],
  requirements: ["Requirements lock", "Verrou des dépendances"],
  bento: ["Bento", "Bento"],
  checkout: ["none: runs from a checkout", "aucun : exécuté depuis les sources"],
  package: ["Package", "Paquet"],
  here: ["Here", "Ici"],
  at_import: ["At import", "À l’import"],
  selfcheck_intro: ["This sends each sample through the request path again and compares its logits with the reference.", "Chaque échantillon repasse par le chemin des requêtes, et ses logits sont comparés à la référence."],
  run_now: ["Run now", "Lancer"],
  selfcheck_summary: ["{passed} of {total} passed; largest logit difference {difference}", "{passed} sur {total} réussis ; plus grand écart d’un logit {difference}"],
  sample: ["Sample", "Échantillon"],
  expected: ["Expected", "Attendu"],
  served: ["Served", "Servi"],
  difference: ["max |Δlogit|", "max |Δlogit|"],
  duration: ["ms", "ms"],
  passed: ["passed", "réussi"],
  failed: ["failed", "échoué"],
  start_title: ["The start of this process", "Le démarrage de ce processus"],
  start_note: ["Measured in the process that answers and, if separate, in the runner’s. The steps of a restart appear in the terminal below.", "Mesuré dans le processus qui répond, et dans celui du runner s’il est à part. Pendant un nouveau démarrage, ses étapes s’affichent dans le terminal ci-dessous."],
  start_process: ["process, imports", "processus, imports"],
  start_verify: ["verify digests", "vérifier les empreintes"],
  start_load: ["load, compile", "charger, compiler"],
  start_preprocessing: ["check preprocessing", "contrôler le prétraitement"],
  start_warm_up: ["warm up", "mise en température"],
  start_self_check: ["self-check", "autotest"],
  flow_title: ["Path to production", "Le chemin vers la production"],
  simulate: ["Simulate the deployment flow", "Simuler le déploiement"],
  next_step: ["Next step", "Étape suivante"],
  replaying: ["Replaying: {step}", "Relecture : {step}"],
  replay_done: ["Replay finished: all lines were recorded or measured, none was executed.", "Relecture terminée : chaque ligne est enregistrée ou mesurée, aucune n’a été exécutée."],
  terminal: ["Terminal", "Terminal"],
  produced_title: ["Artifacts of each step", "Artefacts de chaque étape"],
  produced_note: ["A replayed step highlights what it produced, here and in the inspector.", "Une étape rejouée éclaire ce qu’elle a produit, ici et dans l’inspecteur."],
  next_title: ["Next steps, in the checkout", "Étapes suivantes, dans les sources"],
  flow_import: ["import", "import"],
  flow_verify: ["verify", "vérification"],
  flow_sign: ["sign", "signature"],
  flow_build: ["build", "construction"],
  flow_image: ["containerise", "conteneur"],
  flow_start: ["load, warm up, self-check", "charger, chauffer, autotest"],
  flow_ready: ["ready", "prêt"],
  recorded: ["# recorded at import, {when}", "# enregistré à l’import, {when}"],
  recorded_build: ["# recorded by the build of this bento", "# enregistré par la construction de ce bento"],
  no_recording: ["# no recorded output: this process runs from a checkout", "# pas de sortie enregistrée : ce processus tourne depuis les sources"],
  not_recorded: ["# no output was recorded; run it in the checkout", "# aucune sortie enregistrée ; à exécuter dans les sources"],
  measured_start: ["# measured in process {process}", "# mesuré dans le processus {process}"],
  log_lines: ["# log of this process", "# journal de ce processus"],
  live_note: ["One point per second, all API processes together. While this view is visible, the page reads /metrics once a second.", "Un point par seconde, tous processus API réunis. Cette page lit /metrics une fois par seconde tant que la vue est affichée."],
  live_connected: ["receiving", "réception"],
  live_waiting: ["connecting …", "connexion …"],
  plot_rate: ["Answers/s", "Réponses/s"],
  plot_latency: ["Latency, ms", "Latence, ms"],
  plot_batch: ["Batch size, mean", "Taille de lot, moyenne"],
  plot_queue: ["Queue, mean ms", "File d’attente, ms en moyenne"],
  plot_flight: ["In flight", "En cours"],
  plot_refused: ["Refused and failed/s", "Refus et échecs/s"],
  plot_probability: ["Top probability, mean", "Première probabilité, moyenne"],
  p50_ms: ["median", "médiane"],
  p99_ms: ["99th percentile", "99e centile"],
  refused: ["refused", "refusées"],
  errors: ["errors", "erreurs"],
  time: ["time", "heure"],
};

const COLUMN = { en: 0, fr: 1 };
let language = stored() ?? (navigator.language.startsWith("fr") ? "fr" : "en");
const translated = new WeakMap();

function stored() {
  const choice = localStorage.getItem("language");
  return choice in COLUMN ? choice : null;
}

export const currentLanguage = () => language;

/** A number as the language writes it. */
export function number(value, digits = 3) {
  if (typeof value !== "number") return value;
  if (value !== 0 && Math.abs(value) < 1e-3) return value.toExponential(1);
  return value.toLocaleString(language, { maximumSignificantDigits: Math.max(digits, String(Math.trunc(Math.abs(value))).length) });
}

/** The text of a key; `{name}` is replaced by a value. */
export function text(key, values = {}) {
  const template = TEXTS[key]?.[COLUMN[language]] ?? key;
  return template.replace(/\{(\w+)\}/g, (_, name) => number(values[name] ?? ""));
}

/** Write a text into an element, or into its label, and keep it translated. */
export function translate(element, key, values = {}, label = false) {
  const kept = { ...translated.get(element), [label ? "label" : "content"]: [key, values] };
  translated.set(element, kept);
  element.setAttribute(label ? "data-t-label" : "data-t", key);
  write(element, kept);
}

function write(element, kept) {
  if (kept.content) element.textContent = text(...kept.content);
  if (kept.label) element.setAttribute("aria-label", text(...kept.label));
}

/** Translate the whole page. */
export function setLanguage(choice) {
  language = choice;
  document.documentElement.lang = choice;
  for (const element of document.querySelectorAll("[data-t], [data-t-label]")) {
    const kept = translated.get(element) ?? {};
    const { t, tLabel } = element.dataset;
    if (t && !kept.content) kept.content = [t, {}];
    if (tLabel && !kept.label) kept.label = [tLabel, {}];
    translated.set(element, kept);
    write(element, kept);
  }
}
