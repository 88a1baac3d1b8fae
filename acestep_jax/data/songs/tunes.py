"""Traditional songs: melody and words from before 1900, in the notation of `notation.py`.

The melodies were set down from memory of the songs themselves; the words are those of their first
printings (years beside the titles) or of oral tradition. Each entry: a head
"name | title | language | mode | metre | pickup", then for every line the section, the melody and
the words, separated by `;`. Bar lines are checked in the tests.
"""

import functools

from acestep_jax.data.songs import notation

_SONGS = """
twinkle | Twinkle, Twinkle, Little Star (1806) | en | major | 4 | 0
verse; 1 1 5 5 | 6 6 5- | 4 4 3 3 | 2 2 1-; Twin-kle twin-kle lit-tle star how I won-der what you are
verse; 5 5 4 4 | 3 3 2- | 5 5 4 4 | 3 3 2-; Up a-bove the world so high like a dia-mond in the sky
verse; 1 1 5 5 | 6 6 5- | 4 4 3 3 | 2 2 1-; Twin-kle twin-kle lit-tle star how I won-der what you are

weihnachtsmann | Morgen kommt der Weihnachtsmann (1840) | de | major | 4 | 0
verse; 1 1 5 5 | 6 6 5- | 4 4 3 3 | 2- 1-; Mor-gen kommt der Weih-nachts-mann kommt mit sei-nen Ga-ben
verse; 5 5 4 4 | 3 3 2- | 5 5 4 4 | 3 3 2-; Trom-mel Pfei-fen und Ge-wehr Fahn' und Sä-bel und noch mehr
verse; 1 1 5 5 | 6 6 5- | 4 4 3 3 | 2- 1-; Ja ein gan-zes Krie-ges-heer möcht ich ger-ne ha-ben

baa_baa | Baa, Baa, Black Sheep (1744) | en | major | 4 | 0
verse; 1 1 5 5 | 6/ 6/ 6/ 6/ 5- | 4 4 3 3 | 2 2 1-; Baa baa black sheep have you a-ny wool yes sir yes sir three bags full
verse; 5 5/ 5/ 4 4/ 4/ | 3 3/ 3/ 2- | 5 5/ 5/ 4/ 4/ 4/ 4/ | 3 3/ 3/ 2-; One for the mas-ter and one for the dame one for the lit-tle boy who lives down the lane

mary | Mary Had a Little Lamb (1830) | en | major | 4 | 0
verse; 3 2 1 2 | 3 3 3- | 2 2 2- | 3 5 5-; Ma-ry had a lit-tle lamb lit-tle lamb lit-tle lamb
verse; 3 2 1 2 | 3 3 3 3 | 2 2 3 2 | 1---; Ma-ry had a lit-tle lamb its fleece was white as snow
verse; 3 2 1 2 | 3 3 3- | 2 2 2- | 3 5 5-; Ev-ery-where that Ma-ry went Ma-ry went Ma-ry went
verse; 3 2 1 2 | 3 3 3 3 | 2 2 3 2 | 1---; Ev-ery-where that Ma-ry went the lamb was sure to go

row_boat | Row, Row, Row Your Boat (1852) | en | major | 6 | 0
verse; 1-- 1-- | 1- 2 3-- | 3- 2 3- 4 | 5-----; Row row row your boat gent-ly down the stream
verse; 1' 1' 1' 5 5 5 | 3 3 3 1 1 1 | 5- 4 3- 2 | 1-----; Mer-ri-ly mer-ri-ly mer-ri-ly mer-ri-ly life is but a dream

frere_jacques | Frère Jacques | fr | major | 4 | 0
verse; 1 2 3 1 | 1 2 3 1; Frè-re Jac-ques Frè-re Jac-ques
verse; 3 4 5- | 3 4 5-; dor-mez vous dor-mez vous
verse; 5/ 6/ 5/ 4/ 3 1 | 5/ 6/ 5/ 4/ 3 1; Son-nez les ma-ti-nes son-nez les ma-ti-nes
verse; 1 5, 1- | 1 5, 1-; din din don din din don

fra_martino | Fra Martino | it | major | 4 | 0
verse; 1 2 3 1 | 1 2 3 1; Fra Mar-ti-no cam-pa-na-ro
verse; 3 4 5- | 3 4 5-; dor-mi tu dor-mi tu
verse; 5/ 6/ 5/ 4/ 3 1 | 5/ 6/ 5/ 4/ 3 1; Suo-na le cam-pa-ne suo-na le cam-pa-ne
verse; 1 5, 1- | 1 5, 1-; din don dan din don dan

martinillo | Martinillo | es | major | 4 | 0
verse; 1 2 3 1 | 1 2 3 1; Mar-ti-ni-llo Mar-ti-ni-llo
verse; 3 4 5- | 3 4 5-; dón-de_es-tá dón-de_es-tá
verse; 5/ 6/ 5/ 4/ 3 1 | 5/ 6/ 5/ 4/ 3 1; To-ca la cam-pa-na to-ca la cam-pa-na
verse; 1 5, 1- | 1 5, 1-; din don dan din don dan

vader_jacob | Vader Jacob | nl | major | 4 | 0
verse; 1 2 3 1 | 1 2 3 1; Va-der Ja-cob Va-der Ja-cob
verse; 3 4 5- | 3 4 5-; slaapt gij nog slaapt gij nog
verse; 5/ 6/ 5/ 4/ 3 1 | 5/ 6/ 5/ 4/ 3 1; Al-le klok-ken lui-den al-le klok-ken lui-den
verse; 1 5, 1- | 1 5, 1-; bim bam bom bim bam bom

broder_jakob | Broder Jakob | sv | major | 4 | 0
verse; 1 2 3 1 | 1 2 3 1; Bro-der Ja-kob Bro-der Ja-kob
verse; 3 4 5- | 3 4 5-; so-ver du so-ver du
verse; 5/ 6/ 5/ 4/ 3 1 | 5/ 6/ 5/ 4/ 3 1; Hör du in-te kloc-kan hör du in-te kloc-kan
verse; 1 5, 1- | 1 5, 1-; ding ding dong ding ding dong

panie_janie | Panie Janie | pl | major | 4 | 0
verse; 1 2 3 1 | 1 2 3 1; Pa-nie Ja-nie Pa-nie Ja-nie
verse; 3 4 5- | 3 4 5-; ra-no wstań ra-no wstań
verse; 5/ 6/ 5/ 4/ 3 1 | 5/ 6/ 5/ 4/ 3 1; Wszyst-kie dzwo-ny bi-ją wszyst-kie dzwo-ny bi-ją
verse; 1 5, 1- | 1 5, 1-; bim bam bom bim bam bom

clair_de_la_lune | Au clair de la lune | fr | major | 4 | 0
verse; 1 1 1 2 | 3- 2- | 1 3 2 2 | 1---; Au clair de la lu-ne mon a-mi Pier-rot
verse; 1 1 1 2 | 3- 2- | 1 3 2 2 | 1---; prê-te moi ta plu-me pour é-crire un mot
chorus; 2 2 2 2 | 6,- 6,- | 2 1 7, 6, | 5,---; Ma chan-delle est mor-te je n'ai plus de feu
chorus; 1 1 1 2 | 3- 2- | 1 3 2 2 | 1---; ou-vre moi ta por-te pour l'a-mour de Dieu

avignon | Sur le pont d'Avignon | fr | major | 4 | 0
chorus; 1 1 1- | 2 2 2- | 3 4 5 1 | 7, 1 2 5,; Sur le pont d'A-vi-gnon l'on y dan-se l'on y dan-se
chorus; 1 1 1- | 2 2 2- | 3 4 5 1 | 2 7, 1-; Sur le pont d'A-vi-gnon l'on y dan-se tout en rond

amazing_grace | Amazing Grace (1779) | en | major | 3 | 1
verse; 5, | 1- 3/ ~1/ | 3- 2 | 1- 6, | 5,-; A-ma-zing grace how sweet the sound
verse; 5, | 1- 3/ ~1/ | 3- 2 | 5-- | ~5-; that saved a wretch like me
verse; 3 | 5- 3/ ~1/ | 3- 2 | 1- 6, | 5,-; I once was lost but now am found
verse; 5, | 1- 3/ ~1/ | 3- 2 | 1-- | ~1-; was blind but now I see

freude | An die Freude (1785) | de | major | 4 | 0
verse; 3 3 4 5 | 5 4 3 2 | 1 1 2 3 | 3. 2/ 2-; Freu-de schö-ner Göt-ter-fun-ken Toch-ter aus E-ly-si-um
verse; 3 3 4 5 | 5 4 3 2 | 1 1 2 3 | 2. 1/ 1-; wir be-tre-ten feu-er-trun-ken himm-li-sche dein Hei-lig-tum
chorus; 2 2 3 1 | 2 3/ ~4/ 3 1 | 2 3/ ~4/ 3 2 | 1 2 5,-; Dei-ne Zau-ber bin-den wie-der was die Mo-de streng ge-teilt
chorus; 3 3 4 5 | 5 4 3 2 | 1 1 2 3 | 2. 1/ 1-; al-le Men-schen wer-den Brü-der wo dein sanf-ter Flü-gel weilt

entchen | Alle meine Entchen | de | major | 4 | 0
verse; 1 2 3 4 | 5- 5- | 6 6 6 6 | 5---; Al-le mei-ne Ent-chen schwim-men auf dem See
verse; 6 6 6 6 | 5--- | 4 4 4 4 | 3- 3-; schwim-men auf dem See Köpf-chen in das Was-ser
verse; 5 5 5 5 | 1---; Schwänz-chen in die Höh'

haenschen | Hänschen klein | de | major | 4 | 0
verse; 5 3 3- | 4 2 2- | 1 2 3 4 | 5 5 5-; Häns-chen klein ging al-lein in die wei-te Welt hi-nein
verse; 5 3 3- | 4 2 2- | 1 3 5 5 | 1---; Stock und Hut steht ihm gut ist gar wohl-ge-mut
verse; 2 2 2 2 | 2 3 4- | 3 3 3 3 | 3 4 5-; A-ber Mut-ter wei-net sehr hat ja nun kein Häns-chen mehr
verse; 5 3 3- | 4 2 2- | 1 3 5 5 | 1---; da be-sinnt sich das Kind läuft nach Haus ge-schwind

london_bridge | London Bridge | en | major | 4 | 0
chorus; 5. 6/ 5 4 | 3 4 5- | 2 3 4- | 3 4 5-; Lon-don Bridge is fall-ing down fall-ing down fall-ing down
chorus; 5. 6/ 5 4 | 3 4 5- | 2- 5- | 3 1--; Lon-don Bridge is fall-ing down my fair la-dy

saints | When the Saints Go Marching In | en | major | 4 | 0
verse; 0 1 3 4 | 5--- | 0 1 3 4 | 5---; Oh when the saints go march-ing in
verse; 0 1 3 4 | 5- 3- | 1- 3- | 2---; oh when the saints go march-ing in
chorus; 0 3 3 2 | 1-- 1 | 3- 5 5 | 4- 4-; Oh Lord I want to be in that num-ber
chorus; 0 0 3 4 | 5- 3- | 1- 2- | 1---; when the saints go march-ing in

jingle_bells | Jingle Bells (1857) | en | major | 4 | 0
chorus; 3 3 3- | 3 3 3- | 3 5 1. 2/ | 3---; Jin-gle bells jin-gle bells jin-gle all the way
chorus; 4 4 4. 4/ | 4 3 3 3/ 3/ | 3 2 2 3 | 2- 5-; oh what fun it is to ride in a one-horse o-pen sleigh hey
chorus; 3 3 3- | 3 3 3- | 3 5 1. 2/ | 3---; Jin-gle bells jin-gle bells jin-gle all the way
chorus; 4 4 4. 4/ | 4 3 3 3/ 3/ | 5 5 4 2 | 1---; oh what fun it is to ride in a one-horse o-pen sleigh

stille_nacht | Stille Nacht (1818) | de | major | 3 | 0
verse; 5. ~6/ 5 | 3-- | 5. 6/ 5 | 3--; Stil-le Nacht hei-li-ge Nacht
verse; 2'- 2' | 7-- | 1'- 1' | 5--; al-les schläft ein-sam wacht
verse; 6- 6 | 1'. 7/ 6 | 5. 6/ 5 | 3--; nur das trau-te hoch-hei-li-ge Paar
verse; 6- 6 | 1'. 7/ 6 | 5. 6/ 5 | 3--; hol-der Kna-be im lo-cki-gen Haar
chorus; 2'- 2' | 4'. 2'/ 7 | 1'-- | ~3'--; schlaf in himm-li-scher Ruh
chorus; 1'. ~5/ 3 | 5. 4/ 2 | 1-- | 0--; schlaf in himm-li-scher Ruh

silent_night | Silent Night (1859) | en | major | 3 | 0
verse; 5. ~6/ 5 | 3-- | 5. ~6/ 5 | 3--; Si-lent night ho-ly night
verse; 2'- 2' | 7-- | 1'- 1' | 5--; all is calm all is bright
verse; 6- 6 | 1'. 7/ 6 | 5. ~6/ 5 | 3--; round yon vir-gin moth-er and child
verse; 6- 6 | 1'. 7/ 6 | 5. 6/ 5 | 3--; ho-ly in-fant so ten-der and mild
chorus; 2'- 2' | 4'. 2'/ 7 | 1'-- | ~3'--; sleep in hea-ven-ly peace
chorus; 1'. ~5/ 3 | 5. 4/ 2 | 1-- | 0--; sleep in hea-ven-ly peace

auld_lang_syne | Auld Lang Syne (1788) | en | major | 4 | 1
verse; 5, | 1. 1/ 1 3 | 2. 1/ 2 3 | 1. 1/ 3 5 | 6--; Should auld ac-quaint-ance be for-got and ne-ver brought to mind
verse; 6 | 5. 3/ 3 1 | 2. 1/ 2 3 | 1. 6,/ 6, 5, | 1--; should auld ac-quaint-ance be for-got and days of auld lang syne
chorus; 6 | 5. ~3/ 3 ~1 | 2. 1/ 2 6 | 5. ~3/ 3 ~5 | 6--; For auld lang syne my dear for auld lang syne
chorus; 1' | 5. 3/ 3 1 | 2. 1/ 2 3 | 1. ~6,/ 6, ~5, | 1--; we'll take a cup of kind-ness yet for auld lang syne

greensleeves | Greensleeves (1580) | en | minor | 6 | 1
verse; 1 | 3- 4 5. ~#6/ 5 | 4- 2 7,. ~1/ 2 | 3- 1 1. ~#7,/ 1 | 2- #7, 5,-; A-las my love you do me wrong to cast me off dis-cour-teous-ly
verse; 1 | 3- 4 5. ~#6/ 5 | 4- 2 7,. ~1/ 2 | 3. ~2/ 1 #7,. ~#6,/ #7, | 1- 1 1-; for I have lov-ed you so long de-light-ing in your com-pa-ny
chorus; 0 | 7-- 7. ~#6/ 5 | 4- 2 7,. ~1/ ~2 | 3- 1 1. ~#7,/ 1 | 2- #7, 5,-; Green-sleeves was all my joy Green-sleeves was my de-light for
chorus; 0 | 7-- 7. ~#6/ 5 | 4- 2 7,. ~1/ 2 | 3. 2/ 1 #7,. #6,/ #7, | 1-- 1-; Green-sleeves was my heart of gold and who but my la-dy Green-sleeves

scarborough | Scarborough Fair | en | dorian | 3 | 0
verse; 1- 1 | 5- 5/ 5/ | 2. 3/ 2 | 1--; Are you go-ing to Scar-bo-rough Fair
verse; 0 5 7 | 1'- 7 | 5 6 4 | 5--; pars-ley sage rose-ma-ry and thyme
verse; 0 0 1' | 1'- 1' | 7- 5 | 5 4 3 | 2-- | 0--; Re-mem-ber me to one who lives there
verse; 0 0 1 | 5- 4 | 3 2 1 | 7,-- | 1-- | 0--; she once was a true love of mine

yankee | Yankee Doodle | en | major | 4 | 0
verse; 1 1 2 3 | 1 3 2 5, | 1 1 2 3 | 1- 7,-; Yan-kee Doo-dle went to town a-ri-ding on a po-ny
verse; 1 1 2 3 | 4 3 2 1 | 7, 5, 6, 7, | 1- 1-; stuck a fea-ther in his cap and called it mac-a-ro-ni
chorus; 6,. 7,/ 6, 5, | 6, 7, 1- | 5,. 6,/ 5, 4, | 3,- 5,-; Yan-kee Doo-dle keep it up Yan-kee Doo-dle dan-dy
chorus; 6,. 7,/ 6, 5, | 6, 7, 1 6, | 5, 1 7, 2 | 1- 1-; mind the mu-sic and the step and with the girls be han-dy

susanna | Oh! Susanna (1848) | en | major | 4 | 1
verse; 1/ 2/ | 3 5 5. 6/ | 5 3 1. 2/ | 3 3 2 1 | 2--; Oh I come from A-la-ba-ma with my ban-jo on my knee
verse; 1/ ~2/ | 3 5 5. 6/ | 5 3 1. 2/ | 3 3 2 2 | 1--; I'm goin' to Lou-i-si-a-na my true love for to see
chorus; 0 | 4- 4- | 6 6- 6 | 5 5 3 1 | 2--; Oh Su-san-na oh don't you cry for me
chorus; 1/ ~2/ | 3 5 5. 6/ | 5 3 1. 2/ | 3 3 2 2 | 1--; I come from A-la-ba-ma with my ban-jo on my knee

clementine | Clementine (1884) | en | major | 3 | 1
verse; 1/ 1/ | 1 5, 3/ 3/ | 3 1 1/ 3/ | 5 5 4/ 3/ | 2-; In a cav-ern in a can-yon ex-ca-va-ting for a mine
verse; 2/ 3/ | 4 4 3/ 2/ | 3 1 1/ 3/ | 2 5, 7,/ 2/ | 1-; dwelt a mi-ner for-ty-ni-ner and his daugh-ter Clem-en-tine
chorus; 1/ 1/ | 1 5, 3/ 3/ | 3 1 1/ 3/ | 5 5 4/ 3/ | 2-; Oh my dar-ling oh my dar-ling oh my dar-ling Clem-en-tine
chorus; 2/ 3/ | 4 4 3/ 2/ | 3 1 1/ 3/ | 2 5, 7,/ 2/ | 1-; you are lost and gone for-ev-er dread-ful sor-ry Clem-en-tine

skip_to_my_lou | Skip to My Lou | en | major | 4 | 0
verse; 3 3 1 1 | 3 3/ 3/ 5-; Lost my part-ner what-'ll I do
verse; 2 2 7, 7, | 2 2/ 2/ 4-; lost my part-ner what-'ll I do
verse; 3 3 1 1 | 3 3/ 3/ 5-; lost my part-ner what-'ll I do
chorus; 2 3/ 4/ 3 2 | 1- 1-; skip to my Lou my dar-ling

home_on_the_range | Home on the Range (1873) | en | major | 3 | 1
verse; 5, | 5, 1 2 | 3- 1/ 7,/ | 6, 4 4 | 4-; Oh give me a home where the buf-fa-lo roam
verse; 4/ 4/ | 5- 1/ 1/ | 1 7, 1 | 2-- | ~2-; where the deer and the an-te-lope play
verse; 5, | 5, 1 2 | 3- 1/ 7,/ | 6, 4 4 | 4-; where sel-dom is heard a dis-cour-ag-ing word
verse; 4/ 4/ | 3. 2/ 1 | 7, 1 2 | 1-- | ~1-; and the skies are not clou-dy all day
chorus; 0 | 5-- | 4. 3/ 2 | 3-- | ~3-; Home home on the range
chorus; 1/ 1/ | 1- 1/ 1/ | 1 7, 1 | 2-- | ~2-; where the deer and the an-te-lope play

my_bonnie | My Bonnie (1881) | en | major | 3 | 1
verse; 5, | 3 2 1 | 2 1 6, | 5,- 3, | ~3,-; My bon-nie lies o-ver the o-cean
verse; 5, | 3 2 1 | 1 7, 1 | 2-- | ~2-; my bon-nie lies o-ver the sea
verse; 5, | 3 2 1 | 2 1 6, | 5,- 3, | ~3,-; My bon-nie lies o-ver the o-cean
verse; 5, | 6, 2 1 | 7, 6, 7, | 1-- | ~1-; oh bring back my bon-nie to me
chorus; 0 | 5,-- | 1-- | 6,-- | 2-; Bring back bring back
chorus; 0 | 7, 7, 7, | 7, 6, 7, | 1-- | ~1-; bring back my bon-nie to me

wenceslas | Good King Wenceslas (1853) | en | major | 4 | 0
verse; 1 1 1 2 | 1 1 5,- | 6, 5, 6, 7, | 1- 1-; Good King Wen-ces-las looked out on the feast of Ste-phen
verse; 1 1 1 2 | 1 1 5,- | 6, 5, 6, 7, | 1- 1-; when the snow lay round a-bout deep and crisp and e-ven
verse; 5 4 3 2 | 3 2 1- | 6, 5, 6, 7, | 1- 1-; Bright-ly shone the moon that night though the frost was cru-el
verse; 5, 5, 6, 7, | 1 1 2- | 5 4 3 2 | 1- ~4- | 1---; when a poor man came in sight gath-'ring win-ter fu-el

deck_the_halls | Deck the Halls (1862) | en | major | 4 | 0
verse; 5. 4/ 3 2 | 1 2 3 1 | 2/ 3/ 4/ 2/ 3. 2/ | 1 7, 1-; Deck the halls with boughs of hol-ly fa la la la la la la la la
verse; 5. 4/ 3 2 | 1 2 3 1 | 2/ 3/ 4/ 2/ 3. 2/ | 1 7, 1-; 'Tis the sea-son to be jol-ly fa la la la la la la la la
chorus; 2. 3/ 4 2 | 3. 4/ 5 2 | 3/ #4/ 5 6/ 7/ 1' | 7 6 5-; Don we now our gay ap-par-el fa la la la la la la la la
chorus; 5. 4/ 3 2 | 1 2 3 1 | 6/ 6/ 6/ 6/ 5. 4/ | 3 2 1-; troll the an-cient Yule-tide car-ol fa la la la la la la la la

tannenbaum | O Tannenbaum (1824) | de | major | 3 | 0.5
verse; 5,/ | 1/. 1// 1. 2/ | 3/. 3// 3. 3/ | 2/ 3/ 4 7, | 2 1.; O Tan-nen-baum o Tan-nen-baum wie treu sind dei-ne Blät-ter
chorus; 5/ | 5/ 3/ 6. 5/ | 5/ 4/ 4. 4/ | 4/ 2/ 5. 4/ | 4/ 3/ 3.; Du grünst nicht nur zur Som-mers-zeit nein auch im Win-ter wenn es schneit
verse; 5,/ | 1/. 1// 1. 2/ | 3/. 3// 3. 3/ | 2/ 3/ 4 7, | 2 1.; O Tan-nen-baum o Tan-nen-baum wie treu sind dei-ne Blät-ter

sakura | さくら さくら | ja | minor | 4 | 0
verse; 1 1 2- | 1 1 2- | 1 2 3 2 | 1 2/ ~1/ 6,-; さ-く-ら さ-く-ら や-よ-い の そ-ら は
verse; 5, 3, 5, 6, | 5, 5,/ ~3,/ 2,- | 1 2 3 2 | 1 2/ ~1/ 6,-; み-わ-た-す か-ぎ-り か-す-み か く-も か
verse; 5, 3, 5, 6, | 5, 5,/ ~3,/ 2,- | 1 1 2- | 1 1 2-; に-お-い ぞ い-ず-る い-ざ-や い-ざ-や
verse; 5, 6, 2/ ~1/ 6, | 5,---; み-に ゆ-か-ん

hot_cross_buns | Hot Cross Buns (1798) | en | major | 4 | 0
verse; 3- 2- | 1--- | 3- 2- | 1---; Hot cross buns hot cross buns
verse; 1 1 1 1 | 2 2 2 2 | 3- 2- | 1---; one a pen-ny two a pen-ny hot cross buns

weasel | Pop Goes the Weasel (1853) | en | major | 6 | 0
verse; 1- 1 2- 2 | 3 ~5 3 1-- | 1- 1 2- 2 | 3-- 1--; Up and down the ci-ty road in and out the Ea-gle
chorus; 1- 1 2- 2 | 3 ~5 3 1-- | 6-- 2- 4 | 3-- 1--; that's the way the mo-ney goes pop goes the wea-sel
"""


@functools.cache
def traditional_tunes() -> tuple[notation.Tune, ...]:
    """Reads the table above."""
    return tuple(_parse(block)[0] for block in _SONGS.strip().split("\n\n"))


def melodies_with_bars() -> list[tuple[notation.Tune, list[str]]]:
    """Every tune with its melodies as written, for checking the bar lines."""
    return [_parse(block) for block in _SONGS.strip().split("\n\n")]


def _parse(block: str) -> tuple[notation.Tune, list[str]]:
    head, *rows = block.splitlines()
    name, title, language, mode, metre, pickup = (part.strip() for part in head.split("|"))
    parts = [[part.strip() for part in row.split(";")] for row in rows]
    tune = notation.Tune(
        name=name,
        title=title,
        language=language,
        mode=mode,
        metre=int(metre),
        pickup=float(pickup),
        lines=tuple(
            notation.make_line(melody, text, mode, section) for section, melody, text in parts
        ),
    )
    return tune, [melody for _, melody, _ in parts]
